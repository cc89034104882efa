"""The settings of tools."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared, section
from ptft_jax.config.field import one_of, positive, texts


class CalculatorOptions(Options):
    """`config.tools.calculator`: arithmetic."""

    digits: int = declared(positive(12, "significant digits of a result that is no whole number", most=50))


class ToolsOptions(Options):
    """`config.tools`: what a model may call while it answers, and how."""

    use: tuple[str, ...] = declared(
        texts((), "what may be called while answers are written, see docs/tools.md: calculator; () = nothing")
    )
    form: str = declared(
        one_of(
            "text",
            "what stands in a call: what the only tool is given (text), or {name, arguments} or a list of such (json)",
            *("text", "json"),
        )
    )
    call: tuple[str, ...] = declared(
        texts(("<tool_call>", "</tool_call>"), "what a call begins and ends with; its end ends the turn")
    )
    result: tuple[str, ...] = declared(
        texts(
            ("<tool_response>", "</tool_response>"),
            "of prompts that are plain texts, what is written around what a tool says; conversations have their template's turn of a tool",
        )
    )
    calls: int = declared(positive(4, "turns with a call per answer; one that calls once more ends there"))
    characters: int = declared(positive(1000, "of what a tool says; what is beyond is cut off, and counted"))
    seconds: float = declared(positive(10.0, "that a call may take; one that takes longer has failed"))
    calculator: CalculatorOptions = section(CalculatorOptions)
