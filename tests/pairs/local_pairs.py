"""Pairs with unknowns of every row: mixtures, chains, images, documents."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pair_case import Case, loss_of
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, autoguide, config_enumerate
from torch import Tensor, nn
from torch.distributions.utils import probs_to_logits

from phlogiston.inference.svi import objectives


def noise(*shape: int, seed: int = 21) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 22) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- a mixture as in Pyro's tutorial: MAP of what is shared, classes summed out


class Mixture(nn.Module):
    """weights ~ Dirichlet(2, 2); locs ~ N(0, 5); class ~ Categorical; x ~ N(loc of the class, 1)."""

    @config_enumerate
    def forward(self, x: Tensor | None = None) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(2.0 * torch.ones(2)))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 5.0))
        with pyro.plate("data", 1 if x is None else len(x)):
            k = pyro.sample("class", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[..., k] if locs.dim() == 1 else locs.gather(-1, k), 1.0), obs=x)


def start(site: dict[str, Any]) -> Tensor:
    return torch.tensor([0.5, 0.5]) if site["name"] == "weights" else torch.tensor([-1.0, 1.0])


def mixture() -> Case:
    x = torch.cat([noise(30) - 2.0, noise(20, seed=23) + 2.0])

    def make() -> tuple[nn.Module, Any]:
        model = Mixture()
        return model, autoguide.AutoDelta(poutine.block(model, expose=["weights", "locs"]), init_loc_fn=start)

    def check(model: Any, guide: Any) -> None:
        logits, locs = torch.zeros((), dtype=torch.float64), torch.tensor([-1.0, 1.0], dtype=torch.float64)
        for _ in range(200):  # expectation and maximisation, with the priors
            joint = torch.stack([-logits, logits]) / 2.0 - 0.5 * (x.double()[:, None] - locs).square()
            share = joint.softmax(1)
            locs = (share * x[:, None]).sum(0) / (share.sum(0) + 1.0 / 25.0)
            logits = torch.log((share[:, 1].sum() + 1.0) / (share[:, 0].sum() + 1.0))
        median = guide.median()
        assert (median["locs"] - locs).abs().max() < 0.02
        assert abs(float(median["weights"][1]) - float(logits.sigmoid())) < 0.02

    return Case(make, {"x": x}, check, "enum", steps=150, rate=0.05, decay=True)


# ---- a hidden Markov model with ragged lengths: the objective is exact, so SVI takes the same path


class Markov(nn.Module):
    """z_t | z_{t-1} ~ Categorical; x_t | z_t ~ Bernoulli, for t below the length of the row."""

    def __init__(self) -> None:
        super().__init__()
        self.transition = nn.Parameter(torch.randn(2, 2))
        self.emission = nn.Parameter(torch.randn(2, 3))

    @config_enumerate
    def forward(self, x: Tensor, length: Tensor) -> None:
        move, emit = self.transition.softmax(-1), self.emission.sigmoid()
        with pyro.plate("data", len(x), dim=-1):
            z: Any = 0
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < length):
                    z = pyro.sample(f"z{t}", dist.Categorical(move[z]))
                    pyro.sample(f"x{t}", dist.Bernoulli(emit[z]).to_event(1), obs=x[:, t])

    def evidence(self, x: Tensor, length: Tensor) -> Tensor:
        """Return log p of each row by the forward recursion."""
        move, emit = self.transition.log_softmax(-1), self.emission.sigmoid()
        density = dist.Bernoulli(emit).log_prob(x.unsqueeze(-2)).sum(-1)
        state = move[0] + density[:, 0]
        for t in range(1, x.shape[1]):
            onward = (state.unsqueeze(-1) + move).logsumexp(-2) + density[:, t]
            state = torch.where((t < length).unsqueeze(-1), onward, state)
        return state.logsumexp(-1)


def markov() -> Case:
    lengths = (1 + 4 * uniform(30)).long().clamp(max=4)
    data = {"x": (uniform(30, 4, 3, seed=24) < torch.tensor([0.8, 0.4, 0.2])).float(), "length": lengths}

    def check(model: Any, guide: Any) -> None:
        case = Case(lambda: (Markov(), None), data, None, "enum")
        assert abs(loss_of(case, model, None, 1) + float(model.evidence(**data).mean().detach())) < 1e-4

    return Case(
        lambda: (Markov(), None),
        data,
        check,
        "enum",
        steps=60,
        rate=0.05,
        elbo=lambda: TraceEnum_ELBO(max_plate_nesting=1),
        margin=1e-3,
    )


# ---- a semi-supervised variational autoencoder


class SemiModel(nn.Module):
    """y ~ Categorical(2), known for some rows; z ~ N(0, 1); x ~ N(decoder(y, z), 0.5)."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
        self.classifier = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x: Tensor, label: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(2) / 2.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            shape = torch.broadcast_shapes(y.shape[:-1], z.shape[:-1])
            code = torch.cat([y.expand(*shape, 2), z.expand(*shape, 1)], -1)
            pyro.sample("x", dist.Normal(self.decoder(code), 0.5).to_event(1), obs=x)
            with poutine.mask(mask=label >= 0):  # what is known also teaches the guide's classifier
                pyro.sample("label", dist.Categorical(logits=self.classifier(x)), obs=label.clamp(min=0))


class SemiGuide(nn.Module):
    """q(y | x) where the label is not known, the label itself where it is; q(z | x, y)."""

    def __init__(self, model: SemiModel) -> None:
        super().__init__()
        self.classifier = model.classifier
        self.encoder = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))

    @config_enumerate
    def forward(self, x: Tensor, label: Tensor) -> None:
        with pyro.plate("data", len(x)):
            known = probs_to_logits(torch.eye(2)[label.clamp(min=0)])
            logits = torch.where((label >= 0)[:, None], known, self.classifier(x))
            y = pyro.sample("y", dist.OneHotCategorical(logits=logits))
            loc, log_scale = self.encoder(torch.cat(torch.broadcast_tensors(y, x), -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def semi_supervised() -> Case:
    truth = (uniform(80) < 0.5).long()
    bend = 2.0 * uniform(80, seed=25) - 1.0
    x = torch.stack([bend, torch.where(truth == 1, 1.0, -1.0) * (1.0 + 0.5 * bend)], 1) + 0.2 * noise(80, 2)
    label = torch.where(torch.arange(80) % 8 == 0, truth, -1)  # a label for every eighth row

    def make() -> tuple[nn.Module, Any]:
        model = SemiModel()
        return model, SemiGuide(model)

    def check(model: Any, guide: Any) -> None:
        assert (model.classifier(x).argmax(-1) == truth).float().mean() > 0.9

    data = {"x": x, "label": label}
    return Case(make, data, check, "enum", 150, 0.02, elbo=lambda: TraceEnum_ELBO(max_plate_nesting=1), margin=0.15)


# ---- a deep Markov model


class DeepModel(nn.Module):
    """z_t | z_{t-1} ~ N(network, .); x_t | z_t ~ N(network, 0.5), for t below the length of the row."""

    def __init__(self) -> None:
        super().__init__()
        self.move = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))
        self.emit = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x: Tensor, length: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = torch.zeros(2)
            for t in range(x.shape[1]):
                with poutine.mask(mask=t < length):
                    loc, log_scale = self.move(z).chunk(2, -1)
                    z = pyro.sample(f"z{t}", dist.Normal(loc, log_scale.exp()).to_event(1))
                    pyro.sample(f"x{t}", dist.Normal(self.emit(z), 0.5).to_event(1), obs=x[:, t])


class DeepGuide(nn.Module):
    """q(z_t | z_{t-1}, x_t, ...), a network over what is still to come."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 8, batch_first=True)
        self.combine = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x: Tensor, length: Tensor) -> None:
        hidden = self.rnn(x.flip(1))[0].flip(1)
        with pyro.plate("data", len(x)):
            z = torch.zeros(2)
            for t in range(x.shape[1]):
                with poutine.mask(mask=t < length):
                    shape = torch.broadcast_shapes(z.shape[:-1], hidden[:, t].shape[:-1])
                    both = torch.cat([z.expand(*shape, 2), hidden[:, t].expand(*shape, 8)], -1)
                    loc, log_scale = self.combine(both).chunk(2, -1)
                    z = pyro.sample(f"z{t}", dist.Normal(loc, log_scale.exp()).to_event(1))


def deep_markov() -> Case:
    turns = torch.arange(4.0) + 6.0 * uniform(40, 1)
    data = {
        "x": torch.stack([turns.sin(), turns.cos()], -1) + 0.1 * noise(40, 4, 2),
        "length": torch.arange(40) % 4 + 1,
    }
    return Case(lambda: (DeepModel(), DeepGuide()), data, None, "elbo", 200, 0.03, elbo=Trace_ELBO, margin=0.5)


# ---- attend, infer, repeat, in one dimension


class Scenes(nn.Module):
    """Up to two bumps on eight pixels: presence ~ Bernoulli, where ~ N, height ~ N."""

    pixels = torch.linspace(-1.0, 1.0, 8)

    def __init__(self) -> None:
        super().__init__()
        self.log_width = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            canvas: Any = 0.0
            here: Any = torch.ones(())
            for step, place in enumerate((-0.5, 0.5)):
                here = pyro.sample(f"presence{step}", dist.Bernoulli(0.6 * here))  # the second only after the first
                with poutine.mask(mask=here > 0):
                    where = pyro.sample(f"where{step}", dist.Normal(place, 0.2))
                bump = torch.exp(-((self.pixels - where.unsqueeze(-1)) / self.log_width.exp()).square())
                canvas = canvas + here.unsqueeze(-1) * bump
            pyro.sample("x", dist.Normal(canvas, 0.2).to_event(1), obs=x)


class SceneGuide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 6))

    def forward(self, x: Tensor) -> None:
        out = self.net(x)
        with pyro.plate("data", len(x)):
            here: Any = torch.ones(())
            for step, place in enumerate((-0.5, 0.5)):
                logit, loc, log_scale = out[..., 3 * step : 3 * step + 3].unbind(-1)
                here = pyro.sample(f"presence{step}", dist.Bernoulli(logit.sigmoid() * here))
                with poutine.mask(mask=here > 0):
                    pyro.sample(f"where{step}", dist.Normal(place + 0.2 * loc, 0.2 * log_scale.exp()))


def scene_data(rows: int = 60) -> tuple[Tensor, Tensor]:
    count = torch.arange(rows) % 3
    where = torch.tensor([-0.5, 0.5]) + 0.2 * noise(rows, 2)
    bumps = torch.exp(-((Scenes.pixels - where[..., None]) / 0.35).square())
    present = torch.stack([count > 0, count > 1], 1).float()
    return (bumps * present[..., None]).sum(1) + 0.1 * noise(rows, 8, seed=26), count


def attend_infer_repeat() -> Case:
    x, count = scene_data()

    def check(model: Any, guide: Any) -> None:
        with torch.no_grad():
            presence = guide.net(x)[:, [0, 3]] > 0
        found = presence[:, 0].long() + (presence[:, 0] & presence[:, 1]).long()
        assert (found == count).float().mean() > 0.9

    objective = objectives.make("vimco", num_particles=5)
    return Case(lambda: (Scenes(), SceneGuide()), {"x": x}, check, objective, steps=250, rate=0.02)


# ---- a topic model


class Topics(nn.Module):
    """shares ~ Dirichlet(0.5) of each document; words ~ Multinomial(shares of the topics' words)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(2, 6))

    def forward(self, counts: Tensor) -> None:
        with pyro.plate("data", len(counts)):
            shares = pyro.sample("shares", dist.Dirichlet(0.5 * torch.ones(2)))
            probs = shares @ self.words.softmax(-1)
            pyro.sample("counts", dist.Multinomial(probs=probs, validate_args=False), obs=counts)


class TopicGuide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.Softplus(), nn.Linear(12, 2))

    def forward(self, counts: Tensor) -> None:
        with pyro.plate("data", len(counts)):
            total = counts.sum(-1, keepdim=True)
            pyro.sample("shares", dist.Dirichlet(0.1 + nn.functional.softplus(self.net(counts / total)) * 5.0))


def topics() -> Case:
    share = (1.5708 * uniform(60, 1)).sin().square()  # Dirichlet(0.5, 0.5)
    first, second = torch.tensor([0.4, 0.4, 0.2, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 0.2, 0.4, 0.4])
    probs = share * first + (1.0 - share) * second
    with torch.random.fork_rng():
        torch.manual_seed(27)
        counts = torch.distributions.Multinomial(20, probs).sample()

    def check(model: Any, guide: Any) -> None:
        found = model.words.softmax(-1)
        assert ((found[:, :3].sum(-1) > 0.85) | (found[:, :3].sum(-1) < 0.15)).all()  # each topic has its own words
        assert (found[0, :3].sum() > 0.5) != (found[1, :3].sum() > 0.5)

    return Case(
        lambda: (Topics(), TopicGuide()), {"counts": counts}, check, "elbo", 400, 0.03, elbo=Trace_ELBO, margin=0.2
    )


CASES = {
    "mixture": mixture,
    "hidden Markov model": markov,
    "semi-supervised autoencoder": semi_supervised,
    "deep Markov model": deep_markov,
    "attend, infer, repeat": attend_infer_repeat,
    "topic model": topics,
}
