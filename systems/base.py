"""What every system is on the outside: configure, fit, ask, save, load. Pyro and the engine stay within reach.

A subclass names itself, says what it must know about the data (its *schema*), builds its pair from that, and gives
the recipe as stages. Everything else is here: options and presets, run folders, saving and loading, choosing by
validation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn

from phlogiston import systems
from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.datasets.streamed import Prepared, Streamed, in_memory
from phlogiston.errors import ConfigError, PhlogistonError, RunError
from phlogiston.evaluate.score import Score
from phlogiston.files import FORMAT, identify, write_json
from phlogiston.inference.svi import checkpoints
from phlogiston.inference.svi.engine import History, Stage, fit
from phlogiston.inference.svi.isolation import sole_training
from phlogiston.inference.svi.run_folder.readers import warn_if_unfinished
from phlogiston.systems.evaluation import Reported
from phlogiston.systems.hub.fetch import local_folder
from phlogiston.systems.inputs import check_alike, check_heeded, coerce, held_in_memory
from phlogiston.systems.loading import (
    PARAMETERS,
    built_from_files,
    kept_schema,
    recorded,
    threads_of_run,
    within_checkpoint,
)
from phlogiston.systems.options import preset_options, validate_options
from phlogiston.systems.pretrained import shelf
from phlogiston.systems.tables.tabular import Tabular
from phlogiston.systems.words import InWords, in_words

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

Role = Literal["train", "valid", "score"]


class System(InWords, Tabular, Reported):
    """A model/guide pair as a product.

    Args:
        config: a configuration, or options as a mapping.
        preset: start from this named preset.
        **options: single options; they win over `config` and `preset`.

    Attributes:
        config: the frozen configuration.
        schema: what fitting learned about the data's form (JSON); empty before `fit` or `load`.
        model: the generative program, a plain `nn.Module`; None before `fit` or `load`.
        guide: the inference program.
        history: the engine's `History` of the last `fit`, or that of the run folder it was loaded from.
        trained_on: what it was trained on, in words; "" where a folder does not say.
        scored: what `evaluate` gave last, or the run folder's `metrics.json` holds; None before.

    Raises:
        UnknownNameError: an unknown preset or option.
        ConfigError: an option out of range, or an argument of `fit` among the options.
    """

    name: ClassVar[str] = ""
    DOUBLE: ClassVar[tuple[str, ...]] = ()  # tensors of the data that keep float64: the system standardises them
    ARRAY: ClassVar[str] = "x"  # the tensor that one bare array given as data stands for
    _progress: str = "auto"  # how the fit that is going on shows progress
    HEEDS: ClassVar[tuple[str, ...]] = ()  # of "mask", "weight" and "length": what is taken into account

    def __init__(
        self, config: Any | Mapping[str, Any] | None = None, *, preset: str | None = None, **options: Any
    ) -> None:
        chosen = preset_options(self.name, preset)
        if config is not None:
            chosen.update(config if isinstance(config, Mapping) else dataclasses.asdict(config))
        chosen.update(options)
        known = {field.name for field in dataclasses.fields(systems.config(self.name))}
        of_fit = inspect.signature(System.fit).parameters.keys()  # also where a system's own takes the rest as it comes
        for argument in sorted(options.keys() & of_fit - known):
            raise ConfigError(
                f"{argument!r} is no option of {self.name} but an argument of fit: "
                f"{type(self).__name__}(...).fit(data, {argument}={options[argument]!r})"
            )
        self.config: Any = validate_options(self.name, chosen)
        self.schema: dict[str, Any] = {}
        self.model: Any = None
        self.guide: Any = None
        self.history: History | None = None
        self.trained_on = ""

    def __repr__(self) -> str:
        default = type(self.config)()
        changed = {
            field.name: getattr(self.config, field.name)
            for field in dataclasses.fields(self.config)
            if getattr(self.config, field.name) != getattr(default, field.name)
        }
        inside = ", ".join(f"{k}={v!r}" for k, v in changed.items())
        return f"{type(self).__name__}({inside}){'' if self.schema else '  # not fitted'}"

    # ----- what a subclass provides -------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """What must be known about the data to build the pair: JSON-able."""
        raise NotImplementedError(f"{type(self).__name__} must define describe()")

    def build(self) -> None:
        """Make `model` and `guide` from `config` and `schema`."""
        raise NotImplementedError(f"{type(self).__name__} must define build()")

    def prepare(self, split: Split, role: Role = "train") -> Any:
        """Return rows as the pair's programs take them: a `Split`, or anything with `len` and batches by index.

        Args:
            split: rows as they came.
            role: what they are for: `"train"` (augmentation belongs here), `"valid"`, or `"score"`.
        """
        return split

    def accepted(self, data: Any) -> Any:
        """Training data in a form that only this kind of system knows, as one that all know; others as they are."""
        return data

    def _coerced(self, data: Any, whole: bool = False) -> tuple[Any, Split | None, Meta | None]:
        """Training data taken apart; see `coerce`. Where they are to stay `whole`, no rows are set aside."""
        train, valid, meta = coerce(self.accepted(data), self.DOUBLE, self.ARRAY)
        for part in (train, valid):
            check_heeded(self, part.tensors if isinstance(part, Split) else {})
        return train, valid, meta

    def read_rows(self, data: Any) -> Split:
        """Read rows to score: in every form `fit` takes, a `Dataset` apart. A fitted system may check them further."""
        rows = held_in_memory(coerce(data, self.DOUBLE, self.ARRAY)[0])
        check_heeded(self, rows.tensors)
        return cast(Split, rows)

    def _validation(self, held: Split | None, valid: Any, train: Split) -> Split | None:
        """Rows to validate on: those given, read as rows to score are, or those of the data; None if there are none.

        Raises:
            ConfigError: a `Dataset`, whose training rows they might be.
            DataError, ShapeError: they are not like those trained on.
        """
        if isinstance(valid, Dataset):
            raise ConfigError("valid is a Dataset; give one of its splits: valid=data.test, for example")
        held = held if valid is None else self.read_rows(valid)
        if held is None or not len(held):
            return None
        check_alike(train, held)
        return held

    def initialise(self, train: Split, seed: int) -> None:
        """Set parameters before the first step, from prepared rows."""

    def stages(self) -> list[Stage]:
        """The recipe."""
        raise NotImplementedError(f"{type(self).__name__} must define stages()")

    def training_pair(self) -> tuple[nn.Module, nn.Module | None]:
        """The programs the engine trains: `model` and `guide`, or a collapsed form that is faster (guide None)."""
        return self.model, self.guide

    def step_options(self) -> dict[str, int]:
        """The options that count optimiser steps, stage by stage."""
        return {"steps": self.config.steps}

    def generating(self) -> dict[str, Any]:
        """The arguments with which `model` generates one row."""
        return {}

    def callbacks(self) -> list[Any]:
        """Engine callbacks the recipe needs."""
        return []

    def sample(self, n: int = 1, *, seed: int | None = None) -> dict[str, Tensor]:
        """Draw from the model.

        Args:
            n: how many; every tensor that is returned has n rows.
            seed: of this call; equal seeds give equal samples. None draws from torch's generator.
        """
        raise NotImplementedError(f"{type(self).__name__} must define sample()")

    def log_prob(self, data: Any, *, seed: int = 0, num_particles: int = 100) -> Score:
        """Score rows by their log density, in nats: here by importance sampling with the guide as the proposal.

        Args:
            data: a dataset (its held-out rows), a split, or a mapping of arrays, as `fit` takes them.
            seed: of what is drawn, where the score is a Monte Carlo figure. A row's score depends on that row alone.
            num_particles: draws per row, where it is one.

        Returns:
            Scores (rows,), exact, lower bounds or estimates, with standard errors where they are not exact.
        """
        from phlogiston.evaluate.importance import log_likelihood
        from phlogiston.inference.svi.row_noise import row_keys

        self._need_fit()
        rows = self.prepare(self._evaluation(data).rows, "score")
        keys = row_keys(*rows[:].values(), seed=seed).tolist()
        # row by row, each under its own seed: a score must not depend on the other rows of its batch
        scores = [
            log_likelihood(self.model, self.guide, rows[i : i + 1], num_particles, seed=key).score
            for i, key in enumerate(keys)
        ]
        errors = [score.std_error for score in scores if score.std_error is not None]
        return Score(
            torch.cat([score.value for score in scores]),
            scores[0].kind,
            torch.cat(errors) if len(errors) == len(scores) else None,
        )

    @in_words
    def query(
        self,
        evidence: Any = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 1000,
        *,
        method: str = "auto",
        seed: int | None = None,
    ) -> Answer:
        """Sample everything else given what is known.

        Args:
            evidence: statements about columns ("age >= 40", "label in {3, 8}", see `inference.query.text`), any number
                of them, or mappings: column -> value, or site -> `Known`, `Near`, `Within`, `HalfSpace` or `OneOf`, or
                several of them; see `inference.query.evidence`.
            ask: sites to return; all by default.
            num_samples: per row of evidence.
            method: `"auto"` takes the system's own path where it has one, else importance sampling with the guide as
                the proposal; `"importance"`, `"smc"` and `"hmc"` are those of `inference.query.ask.query`.
            seed: of this call; None draws from torch's generator.

        Raises:
            EvidenceError: malformed or impossible evidence.
            UnknownNameError: no such method.
        """
        from phlogiston.inference.query.ask import Method, query

        self._need_fit()
        chosen = "importance" if method == "auto" else method
        return query(self.model, self.guide, evidence, ask, num_samples, cast(Method, chosen), seed=seed)

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Names evidence may be written in: site -> its columns, and categorical site -> its categories."""
        self._need_fit()
        return {"x": tuple(self.schema.get("columns") or ())}, dict(self.schema.get("categorical") or {})

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """The demo's recipes.

        Each has `title`, `text`, `data`, `data_options`, `options`; and if it likes `trained`, a system in the package
        that the quick demo takes instead of training, `ask`, questions in the form of
        `inference.query.text`, `next`, pairs of a command (RUN stands for the run folder) and what it does, and `show`,
        the pictures that so short a training can make look right; all by default.

        Args:
            quick: only what looks right after seconds of training; nothing where nothing does.
        """
        return []

    # ----- what every system has ----------------------------------------------------------------------------------

    @sole_training()
    def fit(
        self,
        data: Any,
        *,
        valid: Any = None,
        out: str | Path | None = None,
        seed: int = 0,
        resume: bool | str = "auto",
        steps: int | None = None,
        threads: int | None = None,
        fabric: Any = None,
        callbacks: Sequence[Any] = (),
        **engine: Any,
    ) -> Self:
        """Train on data.

        Args:
            data: a `Dataset` (whose training rows may stay on disk), a `Split`, a dict of arrays with equal first
                dimension, or one array (rows, features); for systems over tables also a data frame. Arrays may be of
                any type that holds numbers or labels, masked and NaN included: see `datasets.readers.array`.
            valid: rows whose loss chooses the best checkpoint and is what callbacks stop by, in any form of `data` but
                a `Dataset`; by default those of a `Dataset`, or rows that the system sets aside.
            out: run folder to leave; None keeps everything in memory.
            seed: of initialisation, data order and latent draws.
            resume: what to do when `out` holds a run already: `"auto"` goes on, True demands one, False refuses,
                `"force"` goes on even on other data, in another precision or on other threads (see the engine's `fit`).
            steps: optimiser steps, instead of the configuration's.
            threads: that torch computes on, now and afterwards; by default those of the run gone on with, or its own.
            fabric: a Lightning Fabric for devices, precision and processes; see `inference.svi.engine.make_fabric`.
            callbacks: further engine callbacks.
            **engine: further arguments of `inference.svi.engine.fit`.

        Returns:
            The system itself, fitted.

        Raises:
            DataError, ShapeError: data that cannot be used, before any work.
            RunError: `out` exists and is something else, or lies in the package.
        """
        if out is not None:
            shelf.keep_out(out)
        if threads is None and out is not None and resume not in (False, "force"):
            threads = threads_of_run(out)
        self.threads = self.threads if threads is None else threads
        self.scored = None  # figures of an earlier fit
        self._progress = engine.get("progress", "auto")
        train, held, meta = self._coerced(data, whole=valid is not None)
        if steps is not None:
            self.config = validate_options(self.name, {**dataclasses.asdict(self.config), "steps": steps})
        known = in_memory(train)
        self._take_schema(known, meta, Path(out) if out is not None and resume == "force" else None)
        held = self._validation(held, valid, known)
        self.trained_on = _told(train, held, meta)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with contextlib.nullcontext() if out is None else within_checkpoint(Path(out)):
                self.build()
            self.initialise(rows := self.prepare(known, "train"), seed)
        if isinstance(train, Streamed) and train.by_batch:
            rows = Prepared(train, lambda part: self.prepare(part, "train"))
        model, guide = self.training_pair()
        self.history = fit(
            model,
            guide,
            rows,
            stages=self.stages(),
            seed=seed,
            out=out,
            resume=resume,
            callbacks=[*self.callbacks(), *callbacks],
            threads=threads,
            fabric=fabric,
            valid=None if held is None else self.prepare(held, "valid"),
            config=self._describe_run(meta if isinstance(data, Dataset) else None),  # data in memory have no name
            source=(train, held),
            **engine,
        )
        for module in filter(None, (model, guide, self.model, self.guide)):
            module.to("cpu")
        return self

    def _describe_run(self, meta: Meta | None) -> dict[str, Any]:
        return {
            "system": self.name,
            "options": dataclasses.asdict(self.config),
            "schema": self.schema,
            "data": {
                "name": None if meta is None else meta.name,
                "options": {} if meta is None else dict(meta.options),
            },
        }

    @classmethod
    def select(cls, data: Any, candidates: Iterable[Mapping[str, Any]], **fit_options: Any) -> Self:
        """Fit one system per set of options and keep the one with the highest mean log density on validation rows.

        Args:
            data: a `Dataset` with validation rows, or training rows where `valid` is among the arguments of `fit`.
            candidates: options of each system to try.
            **fit_options: passed to `fit` of each (`out` may not be among them).

        Returns:
            The best system; its `selection` lists every candidate with its validation figure.

        Raises:
            ConfigError: no candidates, no validation rows, or an `out`.
        """
        valid = fit_options.get("valid")
        if valid is None:
            _, valid, _ = coerce(data, array_name=cls.ARRAY)
            if valid is None or not len(valid):
                raise ConfigError("select needs validation rows: those of a Dataset, where it has some, or valid=rows")
        if "out" in fit_options:
            raise ConfigError("select keeps its candidates in memory; save the chosen one with .save(dir)")
        table: list[tuple[dict[str, Any], float]] = []
        best: Self | None = None
        for options in candidates:
            system = cls(options).fit(data, **fit_options)
            figure = system.log_prob(valid).mean().value
            if best is None or figure > max(value for _, value in table):
                best = system
            table.append((dict(options), figure))
        if best is None:
            raise ConfigError("select needs at least one candidate")
        best.selection = table
        return best

    selection: list[tuple[dict[str, Any], float]]

    def _take_schema(self, train: Split, meta: Meta | None, run: Path | None) -> None:
        """Learn the schema from training rows; a run that is gone on with on other data keeps its own."""
        self.schema = self.describe(train, meta)
        self.schema |= self.kept_of_table(train, meta)
        if run is not None:
            self.schema = kept_schema(run, self.schema)

    def _need_fit(self) -> None:
        if not self.schema:
            raise PhlogistonError(f"this {type(self).__name__} is not fitted yet: call .fit(data) or .load(run) first")

    def save(self, folder: str | Path) -> Path:
        """Write the fitted system into a new folder: `config.json` and `parameters.safetensors`.

        Raises:
            RunError: the folder exists and is not empty, or lies in the package; nothing is touched.
        """
        self._need_fit()
        shelf.keep_out(folder)
        path = Path(folder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path} exists already; choose another folder, nothing was written")
        path.mkdir(parents=True, exist_ok=True)
        model, guide = self.training_pair()
        modules = {"model": model} if guide is None else {"model": model, "guide": guide}
        tensors = checkpoints.capture(checkpoints.named_tensors(modules))
        state = {"system": self.name, "not_finite": checkpoints.not_finite(tensors)}
        checkpoints.write(path / PARAMETERS, tensors, state)
        write_json(path / "config.json", {"format": FORMAT, **self._describe_run(None)})
        return path

    def push_to_hub(self, repo: str, *, private: bool = False, message: str = "") -> str:
        """Publish the fitted system on the Hugging Face hub, for `phlogiston.load("hf://user/name")`.

        What is published: what `save` writes, the figures of the last `evaluate`, a card (data, recipe, figures,
        limits), and checksums. Of data in a file only the file's name is told. The extra phlogiston[hub] is needed, and
        a login (`hf auth login`).

        Args:
            repo: `user/name`; made if need be.
            private: whether only its owner sees a repository that is made.
            message: of the commit.

        Returns:
            The address with the commit, hf://user/name@commit, behind which no file ever changes.

        Raises:
            ConfigError: no such name can be, or huggingface_hub is not installed.
            RunError: the hub cannot be reached, or refuses.
        """
        from phlogiston.systems.hub.publish import push

        self._need_fit()
        return push(self, repo, private, message)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load from a run folder, from what `save` wrote, or from a hub, hf://user/name or hf://user/name@revision.

        Raises:
            RunError: not a run folder, or one of another system; a hub that cannot be reached.
            CheckpointError: parameters truncated, altered, or of another shape.
        """
        folder = local_folder(folder)
        content = systems.read_config(folder)
        name = identify(content, folder)
        if name != cls.name:
            raise RunError(f"{folder} holds a {name!r}, not a {cls.name!r}; use phlogiston.systems.load")
        own = content.get("config", content)
        options = own.get("options") or {}
        with torch.random.fork_rng(), built_from_files(Path(folder), options):
            system = cls(options)
            system.schema = dict(own.get("schema") or {})
            system.build()
            model, guide = system.training_pair()
        saved = Path(folder) / PARAMETERS
        state = checkpoints.load_parameters(saved if saved.is_file() else folder, model, guide)
        warn_if_unfinished(Path(folder), state)
        system.trained_on = str((own.get("data") or {}).get("name") or "")
        system.history, system.scored = recorded(Path(folder), state)
        return system


def _told(train: Any, held: Split | None, meta: Meta | None) -> str:
    """What a system is trained on, in words."""
    name = "data given in memory" if meta is None else meta.title or meta.name
    beside = "" if held is None else f", {len(held):,} for validation"
    return f"{name}: {len(train):,} rows{beside}"
