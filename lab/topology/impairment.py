"""What a wire does to the frames of one direction."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from lab.topology.units import Duration, Percent, Rate, spell_duration, spell_rate


class Impairment(BaseModel):
    """One direction of a wire. Nothing said: a wire that does nothing to what it carries.

    Attributes:
        delay: Seconds that each frame is held.
        jitter: At most so many seconds more or less than `delay`, evenly spread; frames keep their order, unless
            `reorder` says otherwise.
        loss: Share of frames that vanish, in percent, each on its own.
        rate: Bits per second, 0 for no limit; what exceeds it waits, and what waits too long is dropped.
        duplicate: Share of frames that arrive twice, in percent.
        corrupt: Share of frames of which one bit is turned, in percent.
        reorder: Share of frames that are not held, and so overtake those that are, in percent; needs a delay.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    delay: Duration = 0.0
    jitter: Duration = 0.0
    loss: Percent = 0.0
    rate: Rate = 0
    duplicate: Percent = 0.0
    corrupt: Percent = 0.0
    reorder: Percent = 0.0

    @property
    def timed(self) -> bool:
        """Whether frames have to be held, changed or doubled, and not only dropped or slowed down."""
        return bool(self.delay or self.jitter or self.duplicate or self.corrupt or self.reorder)

    @property
    def anything(self) -> bool:
        return self.timed or bool(self.loss or self.rate)

    def then(self, other: Impairment) -> Impairment:
        """Both, one after the other: delays add up, shares multiply, the lower rate counts."""
        if not (self.anything and other.anything):
            return self if self.anything else other
        rates = [value for value in (self.rate, other.rate) if value]
        return Impairment.model_construct(
            delay=self.delay + other.delay,
            jitter=self.jitter + other.jitter,
            loss=_either(self.loss, other.loss),
            rate=min(rates, default=0),
            duplicate=_either(self.duplicate, other.duplicate),
            corrupt=_either(self.corrupt, other.corrupt),
            reorder=_either(self.reorder, other.reorder),
        )

    def changed(self, **values: object) -> Self:
        """The same with some values replaced, checked as the file's are. Raises ValidationError."""
        return self.model_validate(self.model_dump(mode="json") | values)

    def spelled(self) -> str:
        """``delay 20ms loss 10%``, or nothing."""
        parts = [f"{name} {spell_duration(getattr(self, name))}" for name in ("delay", "jitter") if getattr(self, name)]
        shares = ("loss", "duplicate", "corrupt", "reorder")
        parts += [f"{name} {getattr(self, name):g}%" for name in shares if getattr(self, name)]
        return " ".join([*parts, *([f"rate {spell_rate(self.rate)}"] if self.rate else [])])


def _either(one: float, other: float) -> float:
    return 100.0 - (100.0 - one) * (100.0 - other) / 100.0 if one and other else one or other
