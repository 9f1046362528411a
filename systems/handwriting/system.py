"""Handwriting synthesis as a product: writes a given text, neatly or in the hand of an example.

data = phlogiston.datasets.load("script")
system = HandwritingModel().fit(data)
system.write("hello world", bias=1.0)             pen movements: {"x", "length"}
system.write("hello world", prime=(strokes, "so it goes"))   the same in another's hand
system.log_prob(data.test)                        nats per line
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.datasets.base import Meta, Split
from phlogiston.datasets.generated.script import encode
from phlogiston.datasets.readers.sequences import STROKES
from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.score import Score
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.schedules import cosine, warmup
from phlogiston.inference.svi.sequences import Sequences
from phlogiston.models.generation import RowNoise, Stream, generate
from phlogiston.models.handwriting import Handwriting
from phlogiston.systems.base import Role
from phlogiston.systems.calls import drawn_seed
from phlogiston.systems.handwriting.config import PRESETS
from phlogiston.systems.handwriting.config import Config as HandwritingConfig
from phlogiston.systems.inputs import apart, held_rows, rows_of
from phlogiston.systems.options import from_config
from phlogiston.systems.stepwise import StepwiseSystem, consume_rows, make_choice
from phlogiston.systems.words import in_words

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

CHUNK = 64
PHRASE = "hello world"


class HandwritingModel(StepwiseSystem):
    """Handwriting synthesis; options in `systems.handwriting.config.Config`.

    Data need `x` (rows, points, 3): dx, dy, pen; `length` (rows,); and `text` int64 (rows, U), codes into the alphabet
    that the dataset names under `categorical["text"]`, -1 after the end.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("script", sizes=(40, 10, 10))
        >>> system = HandwritingModel(steps=2, hidden=8).fit(data)
        >>> sorted(system.write("hello", seed=0, max_points=20))
        ['length', 'x']
    """

    name: ClassVar[str] = "handwriting"
    Config: ClassVar[type] = HandwritingConfig
    config: HandwritingConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def set_aside(self, rows: Split) -> tuple[Split, Split | None]:
        """As `StepwiseSystem.set_aside`, but a line with a character that no other line has is trained on."""
        text, held = rows.tensors.get("text"), held_rows(len(rows))
        if text is None or text.ndim != 2:  # `describe` says what is wrong
            return rows, None
        lost = text[held][~torch.isin(text[held], text[~held])].unique()
        held &= ~torch.isin(text, lost).any(1)
        return apart(rows, held)

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """The alphabet, and how many points a character takes."""
        tensors = train.tensors
        if "x" not in tensors or tensors["x"].ndim != 3 or tensors["x"].shape[2] != 3:
            raise ShapeError("handwriting needs a tensor 'x' of shape (rows, points, 3): dx, dy, pen")
        if "text" not in tensors or tensors["text"].ndim != 2:
            raise DataError("handwriting needs the text of every line: int64 'text' (rows, characters), -1 at the end")
        if not len(train):
            raise DataError("x has no rows; at least one line is needed")
        text = tensors["text"]
        if bool((text < 0).all(1).any()):
            raise DataError(f"line {int((text < 0).all(1).nonzero()[0])} has no text")
        alphabet = list(meta.categorical.get("text", ())) if meta is not None else []
        alphabet = alphabet or [chr(ord("a") + i) for i in range(int(text.max()) + 1)]
        if int(text.max()) >= len(alphabet):
            raise DataError(f"text holds the code {int(text.max())}; the alphabet has {len(alphabet)} characters")
        self.schema = {"columns": list(STROKES), "pen": True}
        _, length = self.sequences(tensors["x"], tensors.get("length"))
        pace = float(length.sum()) / float((text >= 0).sum())
        return {**self.schema, "alphabet": alphabet, "points_per_character": pace}

    def generating(self) -> dict[str, Any]:
        """The arguments with which `model` generates one row: two steps of a letter."""
        return {**super().generating(), "text": torch.zeros(1, 1, dtype=torch.long)}

    def prepare(self, split: Split, role: Role = "train") -> Any:
        """Lines in batches of like length."""
        x, length = self.sequences(split.tensors["x"], split.tensors.get("length"))
        return Sequences({"x": x, "length": length, "text": split.tensors["text"]})

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """The network."""
        self.model = from_config(Handwriting, self.config, characters=len(self.schema["alphabet"]))
        self.guide = None

    def initialise(self, train: Any, seed: int) -> None:
        """Set the unit of the offsets, spread the components, let the window move at the pace of the data."""
        tensors = train.tensors
        self.model.initialise(tensors["x"], tensors["length"], tensors["text"])

    def stages(self) -> list[Stage]:
        """Maximum likelihood."""
        c = self.config
        schedule = {"learning_rate": warmup(c.warmup, cosine(1.0, 0.01), 0.05)}
        return [Stage("fit", c.steps, "elbo", "adam", c.learning_rate, c.batch_size, schedules=schedule, clip=c.clip)]

    # ----- verbs --------------------------------------------------------------------------------------------------

    def codes(self, text: str | None) -> Tensor:
        """Text (`default_text` where it is None) as codes of the alphabet, (1, characters).

        Raises:
            DataError: an empty text, or a character that is not in the alphabet, by its name.
        """
        self._need_fit()
        text = self.default_text() if text is None else text
        return torch.as_tensor(encode(text, self.schema["alphabet"])).unsqueeze(0)

    def default_text(self) -> str:
        """The text that is written where none is given; see `sample`."""
        alphabet = self.schema["alphabet"]
        return PHRASE if set(PHRASE) <= set(alphabet) else "".join(alphabet[: len(PHRASE)])

    def text_of(self, codes: Tensor) -> str:
        """Codes (characters,) as text."""
        return "".join(self.schema["alphabet"][c] for c in codes.tolist() if c >= 0)

    def write(
        self,
        text: str | Sequence[str],
        n: int = 1,
        *,
        bias: float = 1.0,
        prime: tuple[Any, str] | Sequence[tuple[Any, str]] | None = None,
        pi_temperature: float = 1.0,
        sigma_temperature: float = 1.0,
        pen_temperature: float | None = None,
        max_points: int | None = None,
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Write a text, or several at once. No line ends before the window has come to its last character.

        Args:
            text: what to write, characters of the alphabet; a list of texts makes a line of each.
            n: how many times, for a single text.
            bias: 0 writes as freely as the data; 1 neatly; larger values more neatly still.
            prime: strokes (points, 3) and their text: the writing goes on in that hand. The prime is not part of the
                result. For several texts one prime for all, or a list of as many.
            pi_temperature: divides logits of components.
            sigma_temperature: multiplies variances.
            pen_temperature: divides logits of the pen.
            max_points: longest line; three times the points that the text takes on average, by default.
            seed: of this call; None draws one from torch's generator. Line i depends on the seed and i alone.

        Returns:
            `x` (n, points, 3): dx, dy, pen; `length` (n,).

        Raises:
            DataError: a character outside the alphabet.
        """
        n = at_least("n", n, 1)
        texts = [text] * n if isinstance(text, str) else list(text)
        if not texts or (n > 1 and not isinstance(text, str)):
            raise ConfigError(f"text is a list of {len(texts)}, n is {n}: give one text and n, or several texts")
        primes: list[tuple[Any, str]] = []
        if prime is not None:
            one = len(prime) == 2 and isinstance(prime[1], str)
            primes = [cast(tuple[Any, str], prime)] * len(texts) if one else list(cast(Sequence[Any], prime))
            if len(primes) != len(texts):
                raise ConfigError(f"there are {len(primes)} primes for {len(texts)} texts")
        space = " " if " " in self.schema["alphabet"] else ""
        whole = [f"{p[1]}{space}{t}" for p, t in zip(primes, texts, strict=True)] if primes else texts
        codes = torch.nn.utils.rnn.pad_sequence(
            [self.codes(line)[0] for line in whole], batch_first=True, padding_value=-1
        )
        seed = drawn_seed(seed)
        choice = make_choice(pi_temperature, sigma_temperature, pen_temperature, bias)
        longest = round(3 * self.schema["points_per_character"] * max(map(len, texts))) + 40
        most = max_points or min(self.config.max_points, longest)
        self.model.eval()
        with torch.inference_mode():
            state = self.model.start(len(texts), codes)
            if primes:
                x, length = self._primes([strokes for strokes, _ in primes])
                state = consume_rows(self.model, x, length, state)
        noise = RowNoise(self.model, len(texts), seed)
        drawn = generate(self.model, state, most, noise, choice, unfinished=self.model.unfinished)
        return {"x": drawn.x, "length": drawn.length}

    def _primes(self, primes: list[Any]) -> tuple[Tensor, Tensor]:
        """Primes in any form, one line each, padded together."""
        lines = []
        for strokes in primes:
            x, length = self.sequences(strokes)
            if len(x) != 1:
                raise ShapeError(f"prime holds {len(x)} lines; give one")
            lines.append(x[0, : int(length[0])])
        return torch.nn.utils.rnn.pad_sequence(lines, batch_first=True), torch.tensor([len(line) for line in lines])

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        text: str | None = None,
        bias: float = 1.0,
        max_points: int | None = None,
    ) -> dict[str, Tensor]:
        """Write `text` `n` times; see `write`.

        Args:
            n: how many lines.
            seed: of this call; None draws one from torch's generator.
            text: what to write. By default "hello world", or the beginning of an alphabet that lacks its characters:
                the model has no distribution over texts.
            bias: see `write`.
            max_points: see `write`.
        """
        self._need_fit()
        return self.write(self.default_text() if text is None else text, n, bias=bias, seed=seed, max_points=max_points)

    def stream(self, state: Any = None, *, seed: int = 0, text: str | None = None, **choice: Any) -> Stream:
        """Write point by point, in constant memory; see `StepwiseSystem.stream`, and `sample` of `text`."""
        if state is None:
            with torch.inference_mode():
                state = self.model.start(1, self.codes(text))
        return super().stream(state, seed=seed, **choice)

    def export(
        self, path: str | Path | None = None, *, state: Any = None, text: str | None = None, **choice: Any
    ) -> Any:
        """Export one step for texts as long as `text`; see `StepwiseSystem.export`, and `sample` of `text`."""
        return super().export(path, state=self.model.start(1, self.codes(text)) if state is None else state, **choice)

    def lines(self, data: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Strokes, lengths and texts of lines: of a dataset (its test rows, else validation rows), split or dict.

        Raises:
            DataError: no texts.
        """
        x, length = self.sequences(data)
        tensors = rows_of(data)
        if "text" not in tensors:
            raise DataError("these lines have no texts: 'text' (rows, characters) is missing")
        return x, length, tensors["text"]

    def log_prob(self, data: Any, *, seed: int = 0, num_particles: int = 1) -> Score:
        """Log density of lines given their texts, exact, in nats per line and per unit of the data's offsets.

        Args:
            data: see `lines`.
            seed: unused, as is `num_particles`: nothing is drawn.
            num_particles: see `seed`.
        """
        self._need_fit()
        values = []
        self.model.eval()
        with torch.no_grad():
            for part in zip(*(t.split(CHUNK) for t in self.lines(data)), strict=True):
                strokes, length, text = part
                values.append(self.model.log_likelihood(strokes[:, : int(length.max())], length, text))
        return Score(torch.cat(values), "exact")

    def attention(self, data: Any) -> tuple[Tensor, Tensor]:
        """Character with most of the window's weight, int64 (rows, points), and all weights (rows, points, U + 1)."""
        x, length, text = self.lines(data)
        with torch.no_grad():
            ended, _ = self.model.finish(x, length)
            _, phi = self.model.predictions(ended, text)
        return phi.argmax(-1)[:, :-1], phi[:, :-1]

    @in_words
    def query(
        self,
        evidence: Any = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 1000,
        *,
        method: str = "auto",
        seed: int | None = None,
        steps: int | None = None,
        text: str | None = None,
    ) -> Answer:
        """Sample lines given any of their entries, by a particle filter; see `StepwiseSystem.query`.

        Args:
            evidence: about `x`, each (steps, 3) or flat, or (rows, steps, 3) for as many questions; see
                `inference.query.evidence`.
            ask: `["x"]`.
            num_samples: particles, and samples.
            method: `"particle filter"`, which is what `"auto"` takes.
            seed: of this call; None draws one from torch's generator.
            steps: length of the line; that of the evidence by default.
            text: what the lines say; by default as `sample`.
        """
        codes = self.codes(text)
        typical = round(self.schema["points_per_character"] * codes.shape[1]) + 1
        return self._filter(
            evidence, ask, num_samples, method, seed, steps, typical, lambda rows: self.model.start(rows, codes)
        )

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """The built-in script."""
        return [
            {
                "title": "Writing a given text",
                "text": "A window slides over the text while the pen moves: the data do not say which stroke "
                "belongs to which letter. A bias makes it write neatly, an example makes it write in that hand.",
                "data": "script",
                "trained": "handwriting/script",
                "data_options": {"sizes": (1500, 50, 50), "letters": (2, 5)},
                "options": {
                    **PRESETS["default"], "hidden": 80, "batch_size": 40, "learning_rate": 0.005,
                    "steps": 500,
                },
            }
        ]  # fmt: skip
