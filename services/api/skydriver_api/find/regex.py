"""Regular expressions of clients (as MongoDB, PCRE and Python read them) rewritten for Postgres' engine.

The dialects look alike and differ in silence: `\\b`, `$`, `.`, `\\Z` and `\\w` mean other things there. So each expression is
read here, and rewritten with only such constructs as mean the same; what has no equivalent is refused with a reason. Laziness is
dropped (`a+?` finds a match exactly where `a+` does), and groups don't capture: a filter only asks *whether* there is a match.

`\\d \\w \\s \\b` are ASCII as in PCRE; letter case under `i` follows Unicode. `\\Z` and `$` allow one newline after them.
Refused: back-references, possessive and atomic groups, conditionals, recursion, `\\p`, POSIX classes, flags in the middle, and
repetitions nested more than three deep, and
the repetition of what has no width (`^*`, `\\b+`, `(?=a){2}`; also where `x` ignores the space between): dialects disagree on
whether it is an error, and what is meant can be written without it.

Source: REST contract 10 (`$regex` with `i m s x`; at most 1,000 characters; a bad one is 400).
"""

from dataclasses import dataclass
from string import ascii_letters, digits

from skydriver_api.find.errors import BadFilter, Place

__all__ = ["MAX_REGEX", "to_postgres"]

MAX_REGEX = 1_000
_MAX_REPEAT = 255  # the engine's own limit
_MAX_REPEATS = 3  # nesting of repetitions: each level may multiply the engine's states
_MAX_GROUPS = 100  # nesting; keeps the recursion here and there shallow

_PLAIN = set(ascii_letters + digits)
_WORD = "0-9A-Za-z_"
_SHORTHANDS = {"d": "0-9", "w": _WORD, "s": r" \t\n\r\f\v"}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
_BOUNDARY = f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))"
_NO_BOUNDARY = f"(?:(?<=[{_WORD}])(?=[{_WORD}])|(?<![{_WORD}])(?![{_WORD}]))"
_END = r"(?=\n?\Z)"
_ASSERTIONS = {"b": _BOUNDARY, "B": _NO_BOUNDARY, "A": r"\A", "Z": _END, "z": r"\Z"}
_LOOKS = ("(?=", "(?!", "(?<=", "(?<!")


def to_postgres(pattern: str, options: frozenset[str], path: Place | str) -> str:
    """The expression for Postgres' `~` that is found in the same texts.

    options: of `i m s x`. path: the place in the filter, for messages. Raises BadFilter for a bad expression, one too long, and
    one that can't be expressed; what only the engine can see (such as `too complex`) it reports when it is asked.
    """
    if len(pattern) > MAX_REGEX:
        raise BadFilter(f"regular expression has {len(pattern)} characters; at most {MAX_REGEX} are allowed", path)
    flags, start = _leading_flags(pattern)
    reader = _Reader(pattern, start, options | flags, path)
    return "***:" + ("(?i)" if "i" in reader.flags else "") + "(?:" + reader.alternatives(0) + ")"


def _leading_flags(pattern: str) -> tuple[frozenset[str], int]:
    """Flags as in `(?im)…` at the very start, and where the rest begins."""
    end = pattern.find(")")
    if pattern.startswith("(?") and end > 2 and set(pattern[2:end]) <= set("imsx"):
        return frozenset(pattern[2:end]), end + 1
    return frozenset(), 0


def _literal(char: str) -> str:
    """One character that stands for itself, in and outside of brackets."""
    return "\\" + char if char.isascii() and char.isprintable() and char != " " and char not in _PLAIN and char != "_" else char


@dataclass(frozen=True, slots=True)
class _Item:
    """A member of a bracket expression: a character (with its code point, so that it can begin a range), or a shorthand."""

    text: str
    code: int | None = None
    negated: str = ""


class _Reader:
    """A recursive descent over the pattern; each method returns what it read, rewritten."""

    def __init__(self, pattern: str, start: int, flags: frozenset[str], path: Place | str) -> None:
        self.pattern, self.at, self.flags, self.path = pattern, start, flags, path
        self.repeats = 0  # how deep repetitions are nested in what was read last

    def bad(self, why: str) -> BadFilter:
        return BadFilter(f"invalid regular expression: {why} (at character {self.at + 1})", self.path)

    def peek(self, length: int = 1) -> str:
        return self.pattern[self.at : self.at + length]

    def take(self) -> str:
        if self.at >= len(self.pattern):
            raise self.bad("unexpected end of pattern")
        self.at += 1
        return self.pattern[self.at - 1]

    def alternatives(self, depth: int) -> str:
        if depth > _MAX_GROUPS:
            raise self.bad("groups are nested too deeply")
        branches = [self.branch(depth)]
        deepest = self.repeats
        while self.peek() == "|":
            self.at += 1
            branches.append(self.branch(depth))
            deepest = max(deepest, self.repeats)
        self.repeats = deepest
        if depth == 0 and self.at < len(self.pattern):
            raise self.bad("unbalanced ')'")
        return "|".join(branches)

    def branch(self, depth: int) -> str:
        parts: list[str] = []
        deepest = 0
        while self.skip_ignored() not in ("", "|", ")"):
            self.repeats = 0
            atom, repeatable = self.atom(depth)
            quantifier = self.quantifier(repeatable)
            repeats = self.repeats + (quantifier not in ("", "?"))
            if repeats > _MAX_REPEATS:
                raise self.bad(f"repetitions are nested more than {_MAX_REPEATS} levels deep")
            deepest = max(deepest, repeats)
            parts.append(atom + quantifier)
        self.repeats = deepest
        return "".join(parts)

    def skip_ignored(self) -> str:
        """Pass over comments, and under `x` over white space too; returns the character that is next."""
        while True:
            if self.peek(3) == "(?#":
                end = self.pattern.find(")", self.at)
                if end < 0:
                    raise self.bad("unterminated comment")
                self.at = end + 1
            elif "x" in self.flags and self.peek() and self.peek() in " \t\n\r\f\v":
                self.at += 1
            elif "x" in self.flags and self.peek() == "#":
                end = self.pattern.find("\n", self.at)
                self.at = len(self.pattern) if end < 0 else end + 1
            else:
                return self.peek()

    def quantifier(self, repeatable: bool) -> str:
        bounds = self.bounds()
        if bounds is None:
            return ""
        if not repeatable:
            raise self.bad("nothing to repeat")
        if self.peek() == "+":
            raise self.bad("possessive quantifiers are not supported")
        if self.peek() == "?":
            self.at += 1
        self.skip_ignored()
        if self.bounds() is not None:
            raise self.bad("multiple quantifiers")
        return bounds

    def bounds(self) -> str | None:
        self.skip_ignored()
        char = self.peek()
        if char and char in "*+?":
            self.at += 1
            return char
        end = self.pattern.find("}", self.at)
        if char != "{" or end < 0:
            return None
        low, comma, high = self.pattern[self.at + 1 : end].partition(",")
        if not all(part.isascii() and part.isdigit() for part in (low, high) if part) or not (low or comma):
            return None  # a brace like any other character
        if not low:
            raise self.bad("'{,n}' means different things in different dialects; write '{0,n}'")
        if max(int(low), int(high or 0)) > _MAX_REPEAT:
            raise self.bad(f"at most {_MAX_REPEAT} repetitions are supported")
        if high and int(high) < int(low):
            raise self.bad("minimum repetition is greater than the maximum")
        self.at = end + 1
        return f"{{{int(low)}{comma}{int(high) if high else ''}}}"

    def atom(self, depth: int) -> tuple[str, bool]:
        """One atom, and whether it may be repeated."""
        char = self.take()
        if char == "(":
            return self.group(depth)
        if char == "[":
            return self.bracket(), True
        if char == "\\":
            return self.escape()
        if char == ".":
            return ("." if "s" in self.flags else r"[^\n]"), True
        if char == "^":
            return (r"(?<![^\n])" if "m" in self.flags else r"\A"), False
        if char == "$":
            return (r"(?![^\n])" if "m" in self.flags else _END), False
        if char in "*+?":
            raise self.bad("nothing to repeat")
        if char == "{":
            self.at -= 1
            if self.bounds() is not None:
                raise self.bad("nothing to repeat")
            self.at += 1
        return _literal(char), True

    def group(self, depth: int) -> tuple[str, bool]:
        opening = "(?:"
        if self.peek() == "?":
            look = next((mark for mark in _LOOKS if self.pattern.startswith(mark, self.at - 1)), None)
            if look:
                opening = look
                self.at += len(look) - 1
            elif self.peek(2) == "?:":
                self.at += 2
            elif self.peek(3) == "?P<" or self.peek(2) == "?<":
                self.at = self.pattern.find("<", self.at) + 1
                end = self.pattern.find(">", self.at)
                if end < 0 or not self.pattern[self.at : end].isidentifier():
                    raise self.bad("invalid group name")
                self.at = end + 1
            else:
                raise self.bad(f"'({self.peek(2)}' is not supported")
        inner = self.alternatives(depth + 1)
        if self.peek() != ")":
            raise self.bad("missing ')'")
        self.at += 1
        return f"{opening}{inner})", opening == "(?:"

    def escape(self) -> tuple[str, bool]:
        char = self.take()
        if char in _ASSERTIONS:
            return _ASSERTIONS[char], False
        if char.lower() in _SHORTHANDS:
            return f"[{'' if char.islower() else '^'}{_SHORTHANDS[char.lower()]}]", True
        return _literal(self.escaped_character(char)), True

    def escaped_character(self, char: str) -> str:
        if char in _CONTROLS:
            return _CONTROLS[char]
        lengths = {"x": 2, "u": 4, "U": 8}
        if char in lengths:
            if char == "x" and self.peek() == "{":
                end = self.pattern.find("}", self.at)
                code, self.at = self.pattern[self.at + 1 : max(end, 0)], max(end, 0) + 1
            else:
                code = self.peek(lengths[char])
                self.at += lengths[char]
                if len(code) < lengths[char]:
                    raise self.bad("invalid hexadecimal escape")
            if not code or any(digit not in "0123456789abcdefABCDEF" for digit in code) or len(code) > 8:
                raise self.bad("invalid hexadecimal escape")
            number = int(code, 16)
            if not 0 < number <= 0x10FFFF or 0xD800 <= number <= 0xDFFF:
                raise self.bad("unknown escape")
            return chr(number)
        if char in digits:
            raise self.bad("back-references and octal escapes are not supported")
        if char.isascii() and char.isalpha():
            raise self.bad(f"the escape '\\{char}' is not supported")
        return char

    def bracket(self) -> str:
        negated = self.peek() == "^"
        self.at += negated
        members: list[str] = []
        complements: list[str] = []
        first = True
        while first or self.peek() != "]":
            item = self.member()
            first = False
            if self.peek() == "-" and self.peek(2) != "-]" and len(self.peek(2)) == 2:
                self.at += 1
                last = self.member()
                if item.code is None or last.code is None or last.code < item.code:
                    raise self.bad("invalid character range")
                members.append(f"{item.text}-{last.text}")
            elif item.negated:
                complements.append(f"[^{item.negated}]")
            else:
                members.append(item.text)
        self.at += 1
        positive = f"[{''.join(members)}]" if members else ""
        if not complements:
            return f"[^{''.join(members)}]" if negated else positive
        # A complement such as \W inside a set has no spelling of its own that is right under every flag: write alternatives.
        either = "|".join([*complements, positive] if positive else complements)
        return f"(?:(?!{either}).)" if negated else f"(?:{either})"

    def member(self) -> _Item:
        char = self.take()
        if char == "[" and self.peek() and self.peek() in ":.=" and self.pattern.find(self.peek() + "]", self.at + 1) >= 0:
            raise self.bad("POSIX classes are not supported; write the characters")
        if char == "\\":
            char = self.take()
            if char.lower() in _SHORTHANDS:
                shorthand = _SHORTHANDS[char.lower()]
                return _Item(shorthand) if char.islower() else _Item("", negated=shorthand)
            char = "\b" if char == "b" else self.escaped_character(char)
        return _Item(_literal(char), ord(char))
