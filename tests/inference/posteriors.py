"""Posteriors of posteriordb with their published means and standard deviations.

Source: M. Magnusson et al., "posteriordb: Testing, Benchmarking and Developing Bayesian Inference Algorithms" (2024),
https://github.com/stan-dev/posteriordb: the reference posteriors' `mean_value`, and the square root of
`mean_squared_value` minus its square. For eight schools posteriordb has the error of each mean instead, over 10,000
independent draws. Data are those of posteriordb, in the text of https://github.com/stan-dev/stat_comp_benchmarks
(arK, arma, garch, gp_regr, gp_pois_regr) and https://github.com/stan-dev/example-models (rates). The programs follow
the Stan programs; flat priors became proper ones that are flat where the posterior is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


def _t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Posterior:
    """A program with its data inside, and what is known about its latents.

    Attributes:
        model: the program.
        means: site -> published mean, entry by entry.
        sds: the same for standard deviations.
        quantity: brings an answer's samples to the published quantities.
    """

    model: Callable[..., Any]
    means: dict[str, Tensor]
    sds: dict[str, Tensor]
    quantity: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict


def _spread(mean: dict[str, Tensor], squared: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (squared[name] - m.square()).sqrt() for name, m in mean.items()}


def _normal(scale: float, *shape: int) -> Any:
    base = dist.Normal(torch.zeros(shape, dtype=torch.float64), scale)
    return base.to_event(1) if shape else base


# ---- autoregression, moving average, conditional variance

AR_Y = _t(
    0.729385275, 0.829763592, 0.783952709, 1.02595891, 0.969682441, 1.08288592, 0.706389147, 0.776924397, 0.461802948,
    0.638599757, 0.374234443, 0.085496642, -0.126014923, -0.293415133, -0.26173088, -0.335922137, -0.501989577,
    -0.641739953, -0.622462952, -0.850899724, -0.867835181, -1.01638531, -1.05589015, -0.969481232, -1.06725192,
    -0.843098906, -0.682700615, -0.444657349, -0.592038709, -0.510568981, -0.417885844, -0.173616875, -0.107250094,
    -0.035502552, 0.343216846, 0.384190341, 0.496087695, 0.70845116, 0.596280661, 0.641442415, 0.651322274,
    0.594215348, 0.777941418, 0.730776233, 0.482247269, 0.532037223, 0.485102217, 0.368552122, 0.353326811, 0.163369,
    0.253038941, 0.000662143, -0.015767496, -0.014490905, -0.025262899, -0.005625613, -0.318917733, -0.022779161,
    -0.071686571, -0.185018251, -0.235007568, -0.124311188, -0.130492357, -0.199477773, 0.077573932, -0.162852211,
    0.023464567, -0.064680791, 0.084532498, 0.055015077, 0.141742407, 0.087663822, -0.05284672, 0.069521709,
    -0.101449997, -0.068880655, -0.251207323, -0.390287283, -0.167628361, -0.279163552, -0.312125351, -0.286550255,
    -0.411770162, -0.498209846, -0.502852278, -0.739400448, -0.249228092, -0.471015886, -0.464572708, -0.445705812,
    -0.284423712, -0.0227788, -0.06055072, 0.066225625, 0.140523293, 0.276339488, 0.377223367, 0.61030446, 0.88086947,
    0.788517427, 0.801363239, 0.660967819, 0.80976692, 0.820507727, 0.980756297, 0.724038885, 0.931858717,
    0.850488155, 0.480591864, 0.508581134, 0.416112609, 0.314668552, -0.028153919, -0.071701652, -0.143920659,
    -0.522366105, -0.403362111, -0.688632935, -0.694717057, -0.649655708, -0.992699298, -0.935409882, -0.896986455,
    -0.978152357, -1.06684061, -0.953562142, -0.757077368, -0.842575543, -0.697769743, -0.316558186, -0.38782173,
    -0.067116646, -0.0385155, 0.089564681, 0.145457894, 0.185213165, 0.395612762, 0.685264428, 0.556310781,
    0.710844529, 0.746280469, 0.668451928, 0.693653533, 0.737999274, 0.662770813, 0.69009398, 0.680730469,
    0.373319199, 0.45367406, 0.313768226, 0.450033432, -0.033794773, 0.004734074, -0.085687444, 0.108254327,
    -0.139826972, -0.042973545, -0.454163736, -0.332642815, -0.23335341, -0.201461261, -0.182679243, -0.227884814,
    -0.041538358, -0.121007768, -0.072435405, -0.048202557, 0.15801491, 0.058392696, -0.111755943, -0.038172526,
    0.178981953, -0.014841578, 0.050096621, -0.198059212, -0.140011401, -0.174673464, -0.176785085, -0.215414386,
    -0.414474585, -0.340543409, -0.448279042, -0.657115954, -0.354643305, -0.525708117, -0.656437231, -0.524526302,
    -0.475865585, -0.363131679, -0.336691539, -0.325443742, 0.000669469, 0.208042241, 0.002316495, 0.112475211,
    0.349403715, 0.471702395, 0.590660043, 0.604863406, 0.93319791,
)  # fmt: skip
ARMA_Y = _t(
    0.731976946, 0.662415365, 0.945947987, 0.901508927, 1.00687498, 0.946636903, 0.94877834, 0.7810791, 0.613273038,
    0.534024034, 0.401598324, 0.320458847, 0.017770642, 0.019702088, -0.22968254, -0.380992385, -0.4017081,
    -0.729950233, -0.72630409, -1.02144523, -0.967537866, -0.859425049, -1.2054094, -0.966898646, -0.857341561,
    -1.00017346, -0.939405962, -0.855040508, -0.700543773, -0.399891444, -0.515780423, -0.099020559, -0.052062945,
    0.225022658, 0.278992564, 0.194437492, 0.3766137, 0.542823049, 0.644386011, 0.578309135, 0.776932713, 0.556517353,
    0.587039501, 0.734169191, 0.684086278, 0.514808994, 0.640155609, 0.404432193, 0.367594139, 0.304009032,
    0.111691287, 0.008163423, 0.013684731, -0.171590121, -0.021198318, 0.081082561, -0.217570369, -0.147447229,
    -0.153075109, -0.160524759, -0.296322899, -0.155072042, -0.05479648, -0.110653847, 0.007435623, -0.053195266,
    -0.006439362, 0.260950666, 0.126465464, 0.136787873, 0.036766216, 0.034215814, 0.106867738, -0.107267836,
    -0.129762295, -0.039305236, -0.228578849, -0.259555359, -0.351537567, -0.265314323, -0.403232498, -0.588314257,
    -0.386214466, -0.445296856, -0.513062228, -0.436613553, -0.574872995, -0.440405021, -0.313911854, -0.192920043,
    -0.276975318, -0.158546827, -0.105032959, 0.080950658, 0.196393072, 0.424559498, 0.604330067, 0.589595166,
    0.660229852, 0.611303822, 0.926863212, 0.653264862, 0.892154395, 1.0353816, 1.03309724, 0.993892847, 0.964193112,
    0.730898418, 0.555726017, 0.649464451, 0.399487299, 0.131351265, 0.092127065, -0.023980413, -0.126540508,
    -0.490735074, -0.523513537, -0.663708514, -0.597086577, -0.633144555, -0.908637171, -0.753392298, -1.11982768,
    -1.04198741, -0.961722063, -0.83466935, -0.732265946, -0.738514567, -0.521618889, -0.359524723, -0.573123874,
    -0.291006597, -0.038611465, 0.062588402, 0.105103391, 0.373114348, 0.400511548, 0.582664132, 0.688843348,
    0.607633481, 0.750170594, 0.724275202, 0.704798899, 0.48280123, 0.730942763, 0.444733831, 0.381956921,
    0.298011665, 0.360173451, 0.262206908, 0.19521514, 0.260634053, -0.036351163, -0.083411759, 0.022241454,
    -0.152054509, -0.307457956, -0.137477443, -0.172825791, -0.329837626, -0.362642231, -0.34781947, -0.244646472,
    -0.181608944, -0.068722062, 0.050079555, -0.11836914, -0.107960171, 0.015244725, -0.048397299, 0.034670701,
    0.018905365, 0.039958266, 0.043508428, -0.259214099, 0.034084496, -0.254720171, -0.234410036, -0.407577598,
    -0.549464652, -0.341983763, -0.417517498, -0.537900614, -0.503190589, -0.498665937, -0.402077719, -0.509743108,
    -0.622693806, -0.262579722, -0.326249988, -0.43190708, -0.315292011, -0.12554715, 0.12277096, 0.167973529,
    0.367001213, 0.618938529, 0.636397295, 0.633471006, 0.781469831,
)  # fmt: skip
GARCH_Y = _t(
    4.93766971, 4.88991683, 5.02546102, 4.35567647, 3.83573943, 6.42511887, 6.21749587, 5.3789445, 6.12027105,
    5.11431136, 7.62457311, -1.85880466, 5.50934094, 6.44932572, 5.16341924, 3.44639039, 4.16984882, 4.10647082,
    4.36148385, 5.95804656, 4.04595627, 3.12687468, 3.00142717, 7.25685321, 0.61810606, -0.1529171, 9.15201288,
    4.2929169, 8.47976545, 3.47121086, -0.78446022, 6.36436892, 7.39246053, 7.44821619, 7.9462958, 7.45200888,
    4.91606841, 7.07837404, 2.27557166, 4.33385105, 5.33566696, 7.71334572, 3.84655562, 6.52277391, 3.80731059,
    5.5854836, 4.01715099, 3.99054536, 5.35642304, 5.6389753, 5.8895307, 6.04308883, 7.01663715, 5.23984726,
    7.57048295, 7.13717882, 5.06474214, 3.92938943, 3.45541766, 4.32754477, 8.21224581, 5.41823304, 4.78417702,
    3.98404861, 8.26915241, 3.33760534, 2.06569492, 1.52754217, 1.83133083, 3.42725864, 10.6728548, 9.15169892,
    5.02377347, 9.33700653, 6.24136722, 6.04950849, 5.17506456, 3.58392003, 2.59548293, 4.83907375, 3.9602637,
    5.82758884, 4.23546269, 7.22893684, 2.60125321, 4.69064166, 1.91717479, 4.61001409, 5.47954162, 5.15996686,
    6.18193832, 4.34440919, 4.4134581, 6.68698473, 3.34899504, 6.83270263, 4.19524438, 6.78734463, 3.38096383,
    6.91863285, 3.68888261, 6.26224092, 3.44745117, 0.56215253, 12.0983927, -3.94762999, -3.21518976, 8.91901621,
    6.9925151, 8.61130426, 0.79729505, 0.74076053, 6.65043901, -1.01025334, 6.01005413, 1.05968302, 6.82927189,
    4.16367619, 5.12177226, 5.35883603, 2.94569636, 3.09787783, 4.25886372, 7.36761964, 2.14698605, 7.37538509,
    4.82724179, 4.51204392, 5.73044572, 4.41939637, 2.75590613, 4.36446893, 7.1601115, 8.29841613, 2.81665431,
    3.91796708, 9.79524803, -4.72428858, 5.45486794, 6.54469009, 6.59733684, 6.24159999, 3.03968504, 1.20935472,
    5.2636842, 8.64378679, 7.49105976, 6.47364152, 4.52510634, 6.72266533, 4.93413298, 4.15661142, 4.5100764,
    6.29506992, 3.19826524, 5.09675013, 3.26616722, 5.53757602, 6.24419273, 7.20513067, 3.07048867, 2.74547867,
    0.9819569, 5.28944485, 3.86378897, 3.21330962, 5.91416548, 7.21223982, 5.72358999, 6.87125884, 2.78265013,
    3.9139987, 5.87147831, 4.82252986, 6.44606353, 4.90138575, 4.76091882, 6.5644727, 2.61578044, 7.23060033,
    4.30689212, 3.94182008, 8.92724503, 3.42833803, 1.16723006, 0.85435142, 12.1460656, -6.35075237, 7.70559313,
    4.51365529, 4.92291841, 6.46218817, 0.28569131, 3.64479965, 6.24383143, 7.63031349, 8.84031817, 6.91529145,
    4.10490141, 5.2848041,
)  # fmt: skip


def ark() -> None:
    """Autoregression of order 5."""
    alpha = pyro.sample("alpha", _normal(10.0))
    beta = pyro.sample("beta", _normal(10.0, 5))
    sigma = pyro.sample("sigma", dist.HalfCauchy(_t(2.5)[0]))
    before = torch.stack([AR_Y[5 - k : len(AR_Y) - k] for k in range(1, 6)])
    mean = alpha.unsqueeze(-1) + beta.reshape(*alpha.shape, 5) @ before
    pyro.sample("y", dist.Normal(mean, sigma.unsqueeze(-1)).to_event(1), obs=AR_Y[5:])


def arma11() -> None:
    """First-order autoregression and moving average."""
    mu = pyro.sample("mu", _normal(10.0))
    phi = pyro.sample("phi", _normal(2.0))
    theta = pyro.sample("theta", _normal(2.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(_t(2.5)[0]))
    errors = [ARMA_Y[0] - mu - phi * mu]
    for t in range(1, len(ARMA_Y)):
        errors.append(ARMA_Y[t] - mu - phi * ARMA_Y[t - 1] - theta * errors[-1])
    zero = torch.zeros(len(ARMA_Y), dtype=torch.float64)
    error = torch.stack(errors, -1)
    pyro.sample("error", dist.Normal(error, sigma.unsqueeze(-1)).to_event(1), obs=zero)


def garch11() -> None:
    """Conditional variance; the range of one parameter depends on another."""
    mu = pyro.sample("mu", _normal(100.0))
    alpha0 = pyro.sample("alpha0", dist.Uniform(_t(0.0)[0], _t(100.0)[0]))
    alpha1 = pyro.sample("alpha1", dist.Uniform(_t(0.0)[0], _t(1.0)[0]))
    beta1 = pyro.sample("beta1", dist.Uniform(torch.zeros_like(alpha1), 1.0 - alpha1))
    pyro.factor("flat", torch.log1p(-alpha1))  # Stan's prior is flat over the triangle
    variance = [torch.full_like(mu, 0.25)]
    for t in range(1, len(GARCH_Y)):
        variance.append(alpha0 + alpha1 * (GARCH_Y[t - 1] - mu).square() + beta1 * variance[-1])
    sd = torch.stack(variance, -1).sqrt()
    pyro.sample("y", dist.Normal(mu.unsqueeze(-1), sd).to_event(1), obs=GARCH_Y)


# ---- Gaussian processes

GP_X = torch.linspace(-10.0, 10.0, 11, dtype=torch.float64)
GP_Y = _t(4.75906, 1.59423, 2.99548, 5.27501, 1.66472, 2.24347, 2.8914, 4.08681, 4.60588, 0.802364, 3.92136)
GP_K = _t(40, 37, 29, 12, 4, 3, 9, 19, 77, 82, 33)


def _kernel(rho: Tensor, alpha: Tensor, diagonal: Tensor) -> Tensor:
    """Squared exponential covariance of the inputs, (..., 11, 11), with something added on the diagonal."""
    rho, alpha, diagonal = (v.unsqueeze(-1).unsqueeze(-1) for v in (rho, alpha, diagonal))
    distance = (GP_X.unsqueeze(-1) - GP_X).square()
    return alpha.square() * torch.exp(-0.5 * distance / rho.square()) + diagonal * torch.eye(11, dtype=torch.float64)


def _scales() -> tuple[Tensor, Tensor]:
    rho = pyro.sample("rho", dist.Gamma(_t(25.0)[0], _t(4.0)[0]))
    alpha = pyro.sample("alpha", dist.HalfNormal(_t(2.0)[0]))
    return rho, alpha


def gp_regr() -> None:
    """Gaussian process regression."""
    rho, alpha = _scales()
    sigma = pyro.sample("sigma", dist.HalfNormal(_t(1.0)[0]))
    tril = torch.linalg.cholesky(_kernel(rho, alpha, sigma))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(GP_X), scale_tril=tril), obs=GP_Y)


def _function(rho: Tensor, alpha: Tensor, noise: Tensor) -> Tensor:
    tril = torch.linalg.cholesky(_kernel(rho, alpha, torch.full_like(rho, 1e-10)))
    return (tril @ noise.unsqueeze(-1)).squeeze(-1)


def gp_pois_regr() -> None:
    """Counts whose log rate is a Gaussian process."""
    rho, alpha = _scales()
    noise = pyro.sample("noise", _normal(1.0, 11))
    log_rate = _function(rho, alpha, noise.reshape(*rho.shape, 11))
    pyro.sample("k", dist.Poisson(log_rate.exp()).to_event(1), obs=GP_K)


# ---- eight schools

SCHOOLS = _t(28, 8, -3, 7, -1, 1, 18, 12)
SCHOOLS_SD = _t(15, 10, 16, 11, 9, 11, 10, 18)


def eight_schools_noncentred() -> None:
    """Effects as standardised deviations."""
    mu = pyro.sample("mu", _normal(5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(_t(5.0)[0]))
    standard = pyro.sample("standard", _normal(1.0, 8)).reshape(*mu.shape, 8)
    mean = mu.unsqueeze(-1) + tau.unsqueeze(-1) * standard
    pyro.sample("y", dist.Normal(mean, SCHOOLS_SD).to_event(1), obs=SCHOOLS)


def eight_schools_centred() -> None:
    """Effects themselves: a funnel."""
    mu = pyro.sample("mu", _normal(5.0)).unsqueeze(-1)
    tau = pyro.sample("tau", dist.HalfCauchy(_t(5.0)[0])).unsqueeze(-1)
    theta = pyro.sample("theta", dist.Normal(mu.expand(*mu.shape[:-1], 8), tau).to_event(1))
    pyro.sample("y", dist.Normal(theta.reshape(*mu.shape[:-1], 8), SCHOOLS_SD).to_event(1), obs=SCHOOLS)


# ---- rates, and a closed population


def _uniform() -> Any:
    return dist.Beta(_t(1.0)[0], _t(1.0)[0])


def rate_2() -> None:
    """Two rates."""
    for name, count in (("theta1", 5.0), ("theta2", 7.0)):
        rate = pyro.sample(name, _uniform())
        pyro.sample(f"k_{name}", dist.Binomial(10, rate), obs=_t(count)[0])


def rate_5() -> None:
    """One rate of two very different counts."""
    rate = pyro.sample("theta", _uniform())
    for i, count in enumerate((0.0, 10.0)):
        pyro.sample(f"k{i}", dist.Binomial(10, rate), obs=_t(count)[0])


# how often in three occasions each of the 87 animals seen at all was seen; 150 more may exist
SEEN = {1: 37, 2: 38, 3: 12}


def m0() -> None:
    """Capture and recapture with data augmentation."""
    omega = pyro.sample("omega", _uniform())
    p = pyro.sample("p", _uniform())
    total = torch.zeros_like(omega)
    for times, animals in SEEN.items():
        log_chance = omega.log() + times * p.log() + (3 - times) * torch.log1p(-p) + math.log(math.comb(3, times))
        total = total + animals * log_chance
    pyro.factor("seen", total + 150 * torch.log(omega * (1 - p) ** 3 + 1 - omega))


# ---- published figures

_AR_MEAN = {
    "alpha": _t(-0.000718650251261263),
    "beta": _t(0.692163279812727, 0.439043080115602, 0.105816025140126, -0.0354350382459401, -0.301512065609031),
    "sigma": _t(0.150566659032913),
}
_AR_SQUARE = {
    "alpha": _t(0.0001151709),
    "beta": _t(0.4840669409, 0.2003810587, 0.0198605275, 0.0086580952, 0.0957926901),
    "sigma": _t(0.022730759),
}
_ARMA_MEAN = {
    "mu": _t(0.00691486351224137),
    "phi": _t(0.957012888586847),
    "theta": _t(-0.0336960218471),
    "sigma": _t(0.166481622433993),
}
_ARMA_SQUARE = {"mu": _t(0.0001786521), "phi": _t(0.9163964037), "theta": _t(0.0047260888), "sigma": _t(0.0277879814)}
_GARCH_MEAN = {
    "mu": _t(5.05001794660039),
    "alpha0": _t(1.47075973803898),
    "alpha1": _t(0.567284282813872),
    "beta1": _t(0.293024546082117),
}
_GARCH_SQUARE = {"mu": _t(25.5180634), "alpha0": _t(2.490076), "alpha1": _t(0.3379668), "beta1": _t(0.1014308)}
_GP_MEAN = {"rho": _t(6.87434817782581), "alpha": _t(2.4423998398757), "sigma": _t(1.82873106572797)}
_GP_SQUARE = {"rho": _t(48.85864), "alpha": _t(6.576518), "sigma": _t(3.599273)}
_POIS_MEAN = {
    "rho": _t(5.66652941021132),
    "alpha": _t(2.92134418379513),
    "f": _t(
        3.63574060402204, 3.6886122237674, 3.25466563615865, 2.40916833234055, 1.56153312269637, 1.2952616184373,
        1.93120329718491, 3.17960664748282, 4.25292132252809, 4.41509940077751, 3.50681694306204,
    ),
}  # fmt: skip
_POIS_SQUARE = {
    "rho": _t(32.570579),
    "alpha": _t(9.162755),
    "f": _t(
        13.241741, 13.621802, 10.613349, 5.842878, 2.499327, 1.748558, 3.779984, 10.130595, 18.096567, 19.501496,
        12.324364,
    ),
}  # fmt: skip
_SCHOOLS_MEAN = {
    "theta": _t(
        6.15050229334425, 4.9395811407422, 3.90590609001582, 4.79601675138494, 3.6144363246799, 4.0511475789675,
        6.31716975886893, 4.88399694353288,
    ),
    "mu": _t(4.41051833695493),
    "tau": _t(3.60205952364059),
}  # fmt: skip
_SCHOOLS_SD = {
    "theta": _t(5.57375, 4.62294, 5.42314, 4.74936, 4.61451, 4.85195, 4.98767, 5.42512),
    "mu": _t(3.30375),
    "tau": _t(3.18615),
}
_RATE_2 = {"theta1": _t(0.50204180448), "theta2": _t(0.6645121049)}
_RATE_2_SQUARE = {"theta1": _t(0.27134707424432236), "theta2": _t(0.45850956939295667)}
_RATE_5, _RATE_5_SQUARE = {"theta": _t(0.4993039926)}, {"theta": _t(0.26008118797115659)}
_M0 = {"omega": _t(0.423840582387), "p": _t(0.496429011638)}
_M0_SQUARE = {"omega": _t(0.18111337641748457), "p": _t(0.24789137882187676)}


def _effects(samples: dict[str, Tensor]) -> dict[str, Tensor]:
    mu, tau = samples["mu"], samples["tau"]
    theta = mu.unsqueeze(-1) + tau.unsqueeze(-1) * samples["standard"]
    return {"theta": theta, "mu": mu, "tau": tau}


def _log_rates(samples: dict[str, Tensor]) -> dict[str, Tensor]:
    rho, alpha = samples["rho"], samples["alpha"]
    return {"rho": rho, "alpha": alpha, "f": _function(rho, alpha, samples["noise"])}


POSTERIORS = {
    "arK": Posterior(ark, _AR_MEAN, _spread(_AR_MEAN, _AR_SQUARE)),
    "arma11": Posterior(arma11, _ARMA_MEAN, _spread(_ARMA_MEAN, _ARMA_SQUARE)),
    "garch11": Posterior(garch11, _GARCH_MEAN, _spread(_GARCH_MEAN, _GARCH_SQUARE)),
    "gp_regr": Posterior(gp_regr, _GP_MEAN, _spread(_GP_MEAN, _GP_SQUARE)),
    "gp_pois_regr": Posterior(gp_pois_regr, _POIS_MEAN, _spread(_POIS_MEAN, _POIS_SQUARE), _log_rates),
    "eight_schools_noncentred": Posterior(eight_schools_noncentred, _SCHOOLS_MEAN, _SCHOOLS_SD, _effects),
    "eight_schools_centred": Posterior(eight_schools_centred, _SCHOOLS_MEAN, _SCHOOLS_SD),
    "rate_2": Posterior(rate_2, _RATE_2, _spread(_RATE_2, _RATE_2_SQUARE)),
    "rate_5": Posterior(rate_5, _RATE_5, _spread(_RATE_5, _RATE_5_SQUARE)),
    "m0": Posterior(m0, _M0, _spread(_M0, _M0_SQUARE)),
}


def deviation(name: str, answer: Any) -> float:
    """The largest distance of an answer's mean from the published one, in published standard deviations."""
    posterior = POSTERIORS[name]
    found = posterior.quantity(dict(answer.samples))
    worst = 0.0
    for site, mean in posterior.means.items():
        values = found[site].double().reshape(answer.num_samples, -1)
        got = (answer.weights.unsqueeze(-1) * values).sum(0)
        worst = max(worst, float(((got - mean) / posterior.sds[site]).abs().max()))
    return worst
