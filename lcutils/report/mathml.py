r"""The catalogue's formulas as MathML, which browsers draw without a script or a font from elsewhere.

It knows the LaTeX of `lcutils.collapse.explained` and no more; `ValueError` names a command that is new to it.
"""

from __future__ import annotations

import re
from html import escape

from markupsafe import Markup

_TOKENS = re.compile(r"\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]+)?|[^\s]")
_LETTERS = {
    r"\mu": "μ", r"\sigma": "σ", r"\lambda": "λ", r"\alpha": "α", r"\pi": "π", r"\psi": "ψ", r"\Gamma": "Γ",
    r"\top": "⊤",
}  # fmt: skip
_SIGNS = {r"\approx": "≈", "-": "−", r"\langle": "⟨", r"\rangle": "⟩"}
_BARS = {r"\lVert": "‖", r"\rVert": "‖", r"\lvert": "|", r"\rvert": "|"}
_SPACES = {r"\,": "0.17em", r"\ ": "0.3em", r"\quad": "1em"}
_FUNCTIONS = {r"\log", r"\cos", r"\exp", r"\arg", r"\max", r"\min", r"\Pr"}
_ACCENTS = {r"\hat": "^", r"\bar": "¯"}
_BELOW = {r"\max", r"\min", r"\sum"}  # their index stands below them


def mathml(formula: str) -> Markup:
    """Return a formula of the catalogue as a MathML element that stands on a line of its own."""
    kept = re.sub(r"\\text\{[^}]*\}", lambda text: text[0].replace(" ", "~"), formula)  # spaces in words count
    reader = _Reader(_TOKENS.findall(kept))
    return Markup(f'<math display="block">{reader.row()}</math>')


class _Reader:
    """Reads tokens one after another; each method returns the MathML of what it has read."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.place = 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.place += 1
        return token

    def row(self, end: str = "") -> str:
        """Everything up to `end`, which is taken too."""
        parts = []
        while self.peek() != end:
            if not self.peek():
                raise ValueError(f"a formula ends before its {end}")
            parts.append(self.scripted())
        self.take()
        return f"<mrow>{''.join(parts)}</mrow>"

    def scripted(self) -> str:
        """One piece with its index, exponent and prime."""
        first = self.peek()
        base, below, above = self.piece(), "", ""
        while (token := self.peek()) in ("_", "^", "'"):
            self.take()
            if token == "'":
                base = f'<mrow>{base}<mo lspace="0" rspace="0">′</mo></mrow>'
            elif token == "_":
                below = self.piece()
            else:
                above = self.piece()
        kind = ("munder", "mover", "munderover") if first in _BELOW else ("msub", "msup", "msubsup")
        if below and above:
            base = f"<{kind[2]}>{base}{below}{above}</{kind[2]}>"
        elif below or above:
            name = kind[0] if below else kind[1]
            base = f"<{name}>{base}{below or above}</{name}>"
        named = first in _FUNCTIONS or first == r"\operatorname"
        return base + ('<mspace width="0.17em"/>' if named and self.peek() not in ("(", "[", r"\left", r"\,") else "")

    def words(self) -> str:
        """The letters of a group, such as {tr}."""
        self.take()
        letters = []
        while (token := self.take()) != "}":
            letters.append(token)
        return "".join(letters)

    def piece(self) -> str:
        """One symbol, group, fraction, root, accent, or what stands between \\left and \\right."""
        token = self.take()
        if token == "{":
            return self.row("}")
        if token in (r"\frac", r"\tfrac"):
            return f"<mfrac>{self.piece()}{self.piece()}</mfrac>"
        if token == r"\sqrt":
            return f"<msqrt>{self.piece()}</msqrt>"
        if token in _ACCENTS:
            return f'<mover accent="true">{self.piece()}<mo stretchy="false">{_ACCENTS[token]}</mo></mover>'
        if token == r"\widehat":  # a vector over its length, written out: few fonts stretch a hat
            vector = self.piece()
            return f"<mfrac>{vector}<mrow><mo>‖</mo>{vector}<mo>‖</mo></mrow></mfrac>"
        if token == r"\left":
            opening, inside, closing = self.take(), self.row(r"\right"), self.take()
            return f"<mrow>{_fence(opening, True)}{inside}{_fence(closing, True)}</mrow>"
        if token == r"\operatorname":
            return f"<mi>{self.words()}</mi>"
        if token == r"\text":
            return f"<mtext>{self.words().replace('~', '&#160;')}</mtext>"
        if token == r"\mathbf":
            return f"<mi>{''.join(chr(0x1D7CE + int(digit)) for digit in self.words())}</mi>"
        return _symbol(token)


def _fence(token: str, stretchy: bool) -> str:
    sign = _BARS.get(token) or _SIGNS.get(token, token)
    return f'<mo stretchy="{str(stretchy).lower()}">{escape(sign)}</mo>'


def _symbol(token: str) -> str:
    if token in _SPACES:
        return f'<mspace width="{_SPACES[token]}"/>'
    if token in _LETTERS:
        return f"<mi>{_LETTERS[token]}</mi>"
    if token in _FUNCTIONS:
        return f"<mi>{token[1:]}</mi>"
    if token == r"\sum":
        return '<mo movablelimits="false">∑</mo>'
    if token in _BARS or token in (*"()[]", r"\langle", r"\rangle"):
        return _fence(token, False)
    if token[0].isdigit():
        return f"<mn>{token}</mn>"
    if token.isalpha():
        return f"<mi>{token}</mi>"
    if token.startswith("\\") and token not in _SIGNS:
        raise ValueError(f"{token} is not among the LaTeX commands that lcutils/report/mathml.py knows; add it there")
    return f"<mo>{escape(_SIGNS.get(token, token))}</mo>"
