"""Scores for anything that generates, reconstructs, tracks or infers; this package names no system.

    metric, score       a figure of merit with its error bar, sample size and kind; log densities and bits per dimension
    importance, weights log-likelihood of any model/guide pair by importance sampling, from below and from above
    sbc                 how far to trust a posterior: simulation-based calibration of guides and queries
    calibration         PIT, CRPS and interval coverage of predictions
    fid                 FID, KID and the rest; images, features, statistics, inception and frechet lie below it
    neighbours          precision, recall, density, coverage
    judge, probe        classifiers trained on real data; linear probes of latent codes
    tracking            MOTA, IDF1, identity switches, counts
    image_error         MSE, PSNR, SSIM
    figures, report     pictures, and one HTML page that holds everything

Every function returns `Metric`s: no figure travels without its sample size.
"""
