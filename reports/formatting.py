"""How one string or one number looks: no hidden character, no rounded 0 or 100 %, no locale."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from typing import Final

LONGEST = 240
"""Characters shown of one string; the whole of it is in the result."""
DIGITS = 4
"""Significant digits shown; the exact value is the tooltip of the element."""

HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})
"""Unicode's controls, format characters (bidi overrides, zero-width, tags), surrogates, unassigned, line separators."""
# Joiners, fillers and variation selectors: characters of visible categories that have no ink.
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_UNUSUAL: Final = re.compile(r"[^\t\n -~]")


def visible(text: str) -> str:
    """``text`` with every character that cannot be seen, or that reorders its neighbours, as ``\\uXXXX``."""
    return _UNUSUAL.sub(_escape, text)


def is_hidden(character: str) -> bool:
    """Whether the character cannot be seen, or reorders its neighbours; tab and newline count as visible."""
    if character in "\t\n":
        return False
    return unicodedata.category(character) in HIDDEN_CATEGORIES or _BLANK.match(character) is not None


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if not is_hidden(character):
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def json_visible(document: str) -> str:
    """The same JSON document with hidden characters, ``<``, ``>`` and ``&`` as JSON escapes: inert inside HTML."""
    return re.sub(f"{_UNUSUAL.pattern}|[<>&]", _escape_json, document)


def _escape_json(match: re.Match[str]) -> str:
    character = match.group()
    if character not in "<>&" and not is_hidden(character):
        return character
    if ord(character) < 0x10000:
        return f"\\u{ord(character):04x}"
    high, low = divmod(ord(character) - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def shorten(text: str, longest: int = LONGEST) -> str:
    """``text`` visible and on one line; longer than ``longest``, it is cut and its length is stated."""
    shown = " ".join(visible(text).split())
    return shown if len(shown) <= longest else f"{shown[:longest]}… ({integer(len(text))} characters)"


def clip(text: str, longest: int) -> str:
    """``text`` visible, on one line and never longer than ``longest``: for labels whose whole text is elsewhere."""
    shown = " ".join(visible(text).split())
    return shown if len(shown) <= longest else f"{shown[: longest - 1].rstrip()}…"


def slug(name: str) -> str:
    """A stable anchor: ``name`` itself if it is plain, otherwise its plain part and six hex digits of its SHA-256."""
    plain = re.sub(r"[^a-z0-9_]+", "-", name.lower())[:40].strip("-")
    if plain == name.lower() and plain:
        return plain
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{plain}-{digest}" if plain else digest


def distinct(slugs: Iterable[str]) -> list[str]:
    """The same slugs, a repeated one numbered, so that every anchor is unique."""
    seen: dict[str, int] = {}
    unique = []
    for name in slugs:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return unique


def integer(value: int) -> str:
    return f"{value:,}"


def number(value: float, landmarks: tuple[float, ...] = (1.0, -1.0)) -> str:
    """``value`` with four significant digits; just below 1, with two significant digits of its distance to 1.

    A landmark (1, or 100 for percent) is printed only if ``value`` is exactly that.
    """
    if float(value).is_integer() and abs(value) < 1e15:
        shown = integer(int(value))
    elif 10**DIGITS <= abs(value) < 1e9:
        shown = integer(round(value))
    else:
        texts = (f"{value:.{digits}g}" for digits in range(_fewest(value), 18))
        shown = next((text for text in texts if float(text) not in landmarks), repr(value))
    return shown.replace("-", "−", 1) if value < 0 else shown


def _fewest(value: float) -> int:
    distance = 1 - abs(value)
    return max(DIGITS, 1 - math.floor(math.log10(distance))) if 0 < distance < 0.01 else DIGITS


def decimals(value: float) -> str:
    """Two decimals, as many as a share of some dozen facts can have; more where it would read 0, 1 or -1 and is not."""
    shown = f"{value:.2f}"
    if float(shown) in (0.0, 1.0, -1.0) and float(shown) != value:
        return number(value)
    return shown.replace("-", "−")


def percent(share: float) -> str:
    """A share of 1 in percent, with three digits; 0 % and 100 % only if exactly true."""
    value = 100 * share
    short = float(f"{value:.3g}")
    return f"{number(short if short != 100 else value, (100.0,))} %"


def interval(bounds: tuple[float, float] | None) -> str:
    return f"{number(bounds[0])} to {number(bounds[1])}" if bounds is not None else ""


def byte_size(size: int) -> str:
    """Bytes in the unit that keeps the number short (decimal units, as file lists show them)."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} bytes"


def duration(seconds: float) -> str:
    if seconds >= 5_400:
        return f"about {seconds / 3_600:.1f} h"
    if seconds >= 90:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds:.0f} s" if seconds >= 1 else "under 1 s"


def moment(stamp: str) -> str:
    """An ISO time as ``2026-11-23 15:04:05 UTC``; any other text unchanged."""
    try:
        parsed = datetime.fromisoformat(stamp)
    except ValueError:
        return shorten(stamp, 40)
    zone = " UTC" if parsed.utcoffset() is not None and not parsed.utcoffset() else ""
    return parsed.strftime("%Y-%m-%d %H:%M:%S") + (zone or (f" {parsed:%z}" if parsed.tzinfo else ""))
