"""Reading files that others wrote: limits before memory is taken, and one guard that turns every failure into ours.

Every reader of the package goes through here: `arrays` for npy and npz, `packed` for zip, gzip and xz, `documents` for
JSON and XML, `media` for pictures and videos. `limits` holds what they may take, `guard` is the net around them all.
"""
