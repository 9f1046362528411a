"""Makes the shared small pairs importable as `inference_pairs`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
