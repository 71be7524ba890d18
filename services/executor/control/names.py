"""Ids and names: generated ones, and the grammar of those that clients choose."""

from __future__ import annotations

import re
import secrets

from shared.errors import InvalidArgument

NAME = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]+$")
ADJECTIVES = ["able", "amber", "brave", "brisk", "calm", "clever", "cosmic", "daring", "deft", "eager", "early", "fair", "fleet", "fresh", "gentle", "glad", "golden", "grand", "green", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "lucid", "lucky", "mellow", "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "plain", "polite", "proud", "quick", "quiet", "rapid", "ready", "robust", "sage", "serene", "sharp", "silent", "silver", "sincere", "smart", "smooth", "snug", "solid", "steady", "still", "sturdy", "subtle", "sunny", "swift", "tender", "tidy", "vivid", "warm", "wise", "witty", "zesty"]
SURNAMES = ["abel", "ampere", "archimedes", "avogadro", "babbage", "bardeen", "bell", "bernoulli", "bohr", "bolyai", "boole", "born", "boyle", "brahe", "cantor", "carnot", "cauchy", "cavendish", "clausius", "copernicus", "coulomb", "curie", "dalton", "darwin", "dirac", "doppler", "edison", "einstein", "euclid", "euler", "faraday", "fermat", "fermi", "feynman", "fourier", "fresnel", "galileo", "galois", "gauss", "gibbs", "goedel", "goodall", "hamilton", "heisenberg", "hertz", "hilbert", "hooke", "hopper", "hubble", "huygens", "hypatia", "joule", "kepler", "kovalevskaya", "lagrange", "laplace", "lavoisier", "leibniz", "lovelace", "maxwell", "mendel", "meitner", "michelson", "mirzakhani", "morse", "nash", "newton", "nobel", "noether", "ohm", "pascal", "pasteur", "pauli", "planck", "poincare", "ptolemy", "ramanujan", "rayleigh", "riemann", "rutherford", "sagan", "shannon", "tesla", "thales", "torricelli", "turing", "volta", "watt", "weber", "wien", "wiles", "wright", "wu", "yalow"]


def new_id() -> str:
    """64 hex digits. Never all digits in the first 12, so that a short id cannot pass for a number (a hostname)."""
    while True:
        found = secrets.token_hex(32)
        if not found[:12].isdigit():
            return found


def generated_name(attempt: int) -> str:
    """A readable name; from the second attempt on with a number behind it."""
    name = f"{secrets.choice(ADJECTIVES)}_{secrets.choice(SURNAMES)}"
    return name if attempt == 0 else f"{name}{secrets.randbelow(10 ** (attempt + 1))}"


def checked_name(name: str) -> str:
    """A client's name without its slash. Raises InvalidArgument with Docker's words."""
    plain = name.removeprefix("/")
    if not NAME.match(plain):
        raise InvalidArgument(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", field="name"
        )
    return plain
