"""Inverse kinematics with a density: poses that put hands, feet and head where they should be.

    solver = Kinematics(DRMM(preset="poses").fit(datasets.load("poses")))
    poses = solver.solve({"left_hand": (-0.4, 1.2), "right_foot": (0.1, 0.0)}, head_limit=1.2, refine=True)

The density holds which angles go with which targets: sampling it given the targets is one query, and joint limits and
the space below an obstacle are boxes in the same question. What it holds only roughly is the kinematics, so angles
and targets of a sample agree to a few hundredths of the body's length only. `refine` removes that by damped
Gauss-Newton on f(q) = target, f being the true kinematics of root and angles q. With J = df/dq and C the covariance of
q in the sample's own mixture component, a step is

    dq = C J' (J C J' + damping)^-1 (target - f(q))

the smallest that does it in the component's metric: joints move together as they do in poses of the training data.
(Hämäläinen and Solin, *Deep Residual Mixture Models*, 2020, plan such poses by sampling alone.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston.datasets.generated import poses
from phlogiston.errors import ConfigError, ShapeError, unknown_name
from phlogiston.inference.query.evidence import Known, Within
from phlogiston.networks.frames import path_gaussian

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer
    from phlogiston.systems.drmm.system import DRMM

Array = np.ndarray
POINTS: tuple[str, ...] = (*poses.EFFECTORS, "com")
PARAMETERS = 2 + len(poses.JOINTS)  # root and angles, the first columns of a row
HEAD = poses.NAMES.index("head_top")
HEAD_COLUMN = poses.COLUMNS.index("head_top_y")
MARGIN = 1e-4  # by which refinement stays below the head limit
REACHED = 1e-5  # of the body's length: nearer than this nothing is gained


@dataclass(frozen=True, eq=False)
class Poses:
    """Poses that answer one question.

    Attributes:
        x: float64 (n, 30), columns as in `datasets.generated.poses.COLUMNS`. What sampling returns, kinematics inexact;
            after refinement the row that belongs to root and angles exactly.
        joints: (n, 16, 2), where forward kinematics puts the joints.
        error: (n,), distance from target to where forward kinematics puts it, averaged over the targets.
        log_prob: (n,), log density of the rows under the model, nats.
        log_prob_sampled: (n,), the same of the rows as they were sampled; equal to `log_prob` without refinement.
        within_limits: bool (n,), no joint beyond its limits and the head, after forward kinematics, below its limit.
        ess: effective number among the samples drawn for the question.
    """

    x: Array
    joints: Array
    error: Array
    log_prob: Array
    log_prob_sampled: Array
    within_limits: Array
    ess: float

    @property
    def log_prob_loss(self) -> float:
        """Nats of log density that refinement cost, in the mean; negative where it gained."""
        return float((self.log_prob_sampled - self.log_prob).mean())


class Kinematics:
    """Solves for poses with a density fitted on the `poses` data.

    Args:
        system: fitted, its columns those of `datasets.generated.poses`.

    Raises:
        ConfigError: a system fitted on something else.
    """

    def __init__(self, system: DRMM) -> None:
        self.questions = system.questions()
        if tuple(self.questions.columns) != poses.COLUMNS:
            raise ConfigError("inverse kinematics needs a system fitted on the data set 'poses'; this one has columns "
                              f"{', '.join(self.questions.columns[:3])}, ...")  # fmt: skip
        self.system = system
        self.moving = np.array([i for i in system.varying if i < PARAMETERS])  # columns that refinement may change

    def solve(
        self,
        targets: Mapping[str, Sequence[float]],
        head_limit: float | None = None,
        num_samples: int = 64,
        refine: bool = False,
        *,
        joint_limits: bool = True,
        rounds: int = 30,
        seed: int | None = None,
    ) -> Poses:
        """Find poses.

        Args:
            targets: any of `POINTS` -> (x, y), in body lengths; only hands, feet and head top can be refined.
            head_limit: the head's top must not be higher than this.
            num_samples: how many poses, equally weighted.
            refine: move every sample until forward kinematics meets the targets. Refined poses are no longer draws
                from the model's conditional.
            joint_limits: keep samples within the joints' limits; refinement always keeps them.
            rounds: Gauss-Newton steps of the refinement.
            seed: of this call; None draws from torch's generator.

        Raises:
            UnknownNameError: a target that is no point of the body.
            ShapeError: a target that is not two numbers.
            EvidenceError: targets the model finds impossible.
        """
        answer = self.sample(targets, head_limit, num_samples, joint_limits=joint_limits, seed=seed)
        x = answer.samples["x"].numpy()
        log_prob = sampled = self.questions.log_prob(answer.samples["x"]).numpy()
        if refine:
            if "com" in targets:
                raise ConfigError("the centre of mass can be a target of sampling, but not of refinement")
            x = self.refine(x, self.covariances(answer.details["codes"]), targets, head_limit, rounds)
            log_prob = self.questions.log_prob(torch.from_numpy(x)).numpy()
        joints = poses.forward_kinematics(x[:, :2], x[:, 2:PARAMETERS])
        error = np.mean(
            [np.linalg.norm(_position(x, joints, n) - np.asarray(t), axis=-1) for n, t in targets.items()], 0
        )
        inside = (x[:, :PARAMETERS] >= poses.LIMITS[:, 0]) & (x[:, :PARAMETERS] <= poses.LIMITS[:, 1])
        within = inside[:, 2:].all(1) & (joints[:, HEAD, 1] <= (math.inf if head_limit is None else head_limit))
        return Poses(x, joints, error, log_prob, sampled, within, float(answer.ess))

    def sample(
        self,
        targets: Mapping[str, Sequence[float]],
        head_limit: float | None = None,
        num_samples: int = 64,
        *,
        joint_limits: bool = True,
        seed: int | None = None,
    ) -> Answer:
        """The query behind `solve`: equally weighted samples of all 30 columns given targets and limits."""
        values = torch.zeros(len(poses.COLUMNS), dtype=torch.float64)
        mask = torch.zeros(len(poses.COLUMNS), dtype=torch.bool)
        for name, target in targets.items():
            if name not in POINTS:
                raise unknown_name("target", name, POINTS)
            if np.shape(target) != (2,):
                raise ShapeError(f"the target of {name} is {target!r}; expected two numbers, x and y")
            first = poses.COLUMNS.index(f"{name}_x")
            values[first : first + 2], mask[first : first + 2] = torch.as_tensor(target), True
        evidence: list[Any] = [Known(values, mask)]
        lower, upper = torch.full((len(values),), -math.inf), torch.full((len(values),), math.inf)
        lower, upper = lower.double(), upper.double()
        if joint_limits:
            turning = self.moving[self.moving >= 2]
            lower[turning], upper[turning] = torch.from_numpy(poses.LIMITS[turning].T)
        if head_limit is not None:
            upper[HEAD_COLUMN] = head_limit
        if joint_limits or head_limit is not None:
            evidence.append(Within(lower, upper))
        # weights are uneven once there are limits; drawing more first leaves fewer copies among those returned
        drawn = num_samples * (4 if joint_limits else 1)
        answer = self.questions.ask({"x": evidence}, num_samples=drawn, seed=seed)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return answer.resampled(num_samples, generator)

    def covariances(self, codes: torch.Tensor) -> Array:
        """Covariance of root and moving angles in the Gaussian of each path: (n, L) -> (n, moving, moving)."""
        model = self.questions.model
        with torch.no_grad():
            _, factor = path_gaussian(model.frames, codes)
            factor = factor if factor.dim() == 3 else factor.diag_embed()
            factor = model.scale[:, None] * factor
        rows = factor[:, [self.system.varying.index(i) for i in self.moving]].numpy()
        return np.asarray(rows @ rows.swapaxes(1, 2))

    def refine(
        self,
        x: Array,
        covariance: Array,
        targets: Mapping[str, Sequence[float]],
        head_limit: float | None = None,
        rounds: int = 30,
    ) -> Array:
        """Move poses until forward kinematics meets the targets.

        Args:
            x: (n, 30) or more columns than root and angles are ignored.
            covariance: (n, moving, moving), the metric of each pose.
            targets: hands, feet or head top -> (x, y).
            head_limit: an inequality the steps must come to obey, too.
            rounds: steps at most; a step that makes things worse is taken back and damped.

        Returns:
            Rows (n, 30) assembled from the refined root and angles; angles within their limits.
        """
        goal = _Goal(targets, head_limit)
        low, high = poses.LIMITS[self.moving].T.copy()
        low[self.moving < 2], high[self.moving < 2] = -math.inf, math.inf  # the root may go where it must
        q = np.array(x[:, :PARAMETERS], dtype=np.float64)
        q[:, self.moving] = q[:, self.moving].clip(low, high)
        damping = np.full(len(q), 1e-3)
        residual = goal.residual(q)
        for _ in range(rounds):
            busy = np.abs(residual).max(1) > REACHED
            if not busy.any():
                break
            slope = goal.slope(q[busy])[:, :, self.moving]
            here = q[busy][:, self.moving]
            step = _step(slope, residual[busy], covariance[busy], damping[busy], here, low, high)
            tried = q[busy].copy()
            tried[:, self.moving] = (here + step).clip(low, high)
            after = goal.residual(tried)
            better = (after**2).sum(1) < (residual[busy] ** 2).sum(1)
            kept = np.flatnonzero(busy)[better]
            q[kept], residual[kept] = tried[better], after[better]
            damping[busy] = np.where(better, damping[busy] / 4, damping[busy] * 6).clip(1e-9, 1e3)
        return poses.observe(q[:, :2], q[:, 2:])


class _Goal:
    """What refinement drives to zero: targets minus positions, and the head's height above its limit."""

    def __init__(self, targets: Mapping[str, Sequence[float]], head_limit: float | None) -> None:
        self.joints = [poses.NAMES.index(name) for name in targets]
        self.targets = np.array([tuple(t) for t in targets.values()], dtype=np.float64).reshape(-1, 2)
        self.limit = math.inf if head_limit is None else head_limit - MARGIN

    def residual(self, q: Array) -> Array:
        """(n, 18) -> (n, 2 targets + 1)."""
        joints = poses.forward_kinematics(q[:, :2], q[:, 2:])
        off = (self.targets - joints[:, self.joints]).reshape(len(q), -1)
        return np.concatenate([off, np.minimum(self.limit - joints[:, HEAD, 1:], 0.0)], 1)

    def slope(self, q: Array) -> Array:
        """Derivative of the positions by q, zero for a head below its limit: (n, 2 targets + 1, 18)."""
        jacobian = poses.jacobian(q[:, :2], q[:, 2:])
        joints = poses.forward_kinematics(q[:, :2], q[:, 2:])
        high = joints[:, HEAD, 1] > self.limit
        head = jacobian[:, HEAD, 1:2] * high[:, None, None]
        return np.concatenate([jacobian[:, self.joints].reshape(len(q), -1, PARAMETERS), head], 1)


def _step(
    slope: Array, residual: Array, covariance: Array, damping: Array, here: Array, low: Array, high: Array
) -> Array:
    """One damped step in the metric of `covariance`; joints that would leave their limits stay where they are."""
    stuck = np.zeros(here.shape, dtype=bool)
    for _ in range(3):
        metric = covariance * ~stuck[:, :, None] * ~stuck[:, None, :]
        back = metric @ slope.swapaxes(1, 2)  # (n, moving, residuals)
        normal = slope @ back
        size = np.trace(normal, axis1=1, axis2=2) / normal.shape[1]
        ridge = (damping * size + 1e-12)[:, None, None] * np.eye(normal.shape[1])
        step = (back @ np.linalg.solve(normal + ridge, residual[:, :, None]))[:, :, 0]
        leaving = ((here <= low) & (step < 0)) | ((here >= high) & (step > 0))
        if not (leaving & ~stuck).any():
            break
        stuck |= leaving
    return step


def _position(x: Array, joints: Array, name: str) -> Array:
    """Where forward kinematics puts a point of the body: (n, 2)."""
    if name != "com":
        return np.asarray(joints[:, poses.NAMES.index(name)])
    first = poses.COLUMNS.index("com_x")
    return np.asarray(poses.observe(x[:, :2], x[:, 2:PARAMETERS])[:, first : first + 2])
