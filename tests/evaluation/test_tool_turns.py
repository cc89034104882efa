"""Answers in several turns, by a writer whose words are known."""

import types

import numpy as np
import pytest

from ptft_jax.config.seeds import Use, mixed
from ptft_jax.data import chat
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.turns import Conversation
from ptft_jax.errors import UserError
from ptft_jax.evaluation import conversation, tool_turns
from ptft_jax.evaluation.stop_texts import StopTexts
from ptft_jax.model.decode import Generated
from ptft_jax.rewards.base import Task
from ptft_jax.tools.calculator import Calculator
from ptft_jax.tools.toolbox import Marks, Toolbox

MARKS = Marks("[", "]", "<", ">")
BYTES = tok.ByteTokenizer()


class Writer:
    """Writes texts, by the number of the row and the turn, as `written_ids` does: up to what stops them, or as far as there is room."""

    def __init__(self, *texts):
        self.texts, self.asked = [list(each) for each in texts], []

    def __call__(self, model, params, tokenizer, prompts, *, most, numbers, seed, stop, max_new_tokens, **options):
        told = [bytes(i for i in ids if i < 256).decode() for ids in prompts]
        real = [place for place, number in enumerate(numbers) if number not in numbers[:place]]  # others fill up
        numbers, prompts, told = ([part[place] for place in real] for part in (numbers, prompts, told))
        self.asked.append((numbers, seed, told))
        stops = StopTexts(tokenizer, stop, prompts, gaps={}, apart=True, with_stop=True)
        return [self._one(stops, place, self.texts[number].pop(0), room) for place, (number, room) in enumerate(zip(numbers, most))]  # fmt: skip

    def _one(self, stops, place, text, room):
        ids, end = tokenizer_ids(text), None
        for n in range(1, min(len(ids), room) + 1):
            if (keep := stops.cut(place, ids[:n])) is not None:
                ids, reason = ids[:keep], "stop"
                break
        else:
            reason, end = ("end", 256) if len(ids) < room else ("length", None)
            ids = ids[:room]
        drawn = [-0.5] * (len(ids) + (end is not None))
        return tool_turns.Written(stops.text(place, ids), Generated(ids, reason, end, drawn, drawn, np.zeros((len(drawn), 2), np.uint8)))  # fmt: skip


def tokenizer_ids(text):
    return list(text.encode())


def talked(monkeypatch, *texts, calls=2, most=40, stop=(), before=(), characters=9, seed=5):
    writer = Writer(*texts)
    monkeypatch.setattr(tool_turns, "written_ids", writer)
    tools = Toolbox({"calculator": Calculator()}, "text", MARKS, calls, characters)
    prompts = [tokenizer_ids(f"{n}:") for n in range(len(texts))]
    tasks = [Task("", (), {}, "here")] * len(texts)
    found = tool_turns.talk(
        None, None, BYTES, prompts, tools=tools, tasks=tasks, templates=[None] * len(texts), before=before, max_new_tokens=most, seed=seed, stop=stop
    )  # fmt: skip
    return found, writer


def spelled(talk):
    """What was written, with what tools said in braces."""
    given = {n for start, end in talk.given for n in range(start, end)}
    text = "".join(("{%s}" if n in given else "%s") % chr(i) if i < 256 else "|" for n, i in enumerate(talk.ids))
    return text.replace("}{", "")


def test_a_model_calls_reads_and_goes_on(monkeypatch):
    """Each row by itself, in as many turns as it calls; ids are those that were sampled."""
    found, writer = talked(monkeypatch, ["a[1+2]", "b[3*4]", "so 12"], ["none"], ["[x]", "sorry"])
    assert [spelled(one) for one in found] == ["a[1+2]{<3>}b[3*4]{<12>}so 12|", "none|", "[x]{<error: Va>}sorry|"]
    assert [one.text for one in found] == ["so 12", "none", "sorry"] and {one.reason for one in found} == {"end"}
    assert [len(one.drawn) for one in found] == [one.sampled for one in found] == [18, 5, 9]
    assert [len(one.support) for one in found] == [18, 5, 9] and not any(one.unanswered for one in found)
    assert [[(t.text, t.results[0].failed, t.results[0].cut) for t in one.turns] for one in found] == [
        [("a[1+2]", False, False), ("b[3*4]", False, False)], [], [("[x]", True, False)],
    ]  # fmt: skip
    assert writer.asked == [
        ([0, 1, 2], 5, ["0:", "1:", "2:"]),
        ([0, 2], mixed(5, Use.TURN, 1), ["0:a[1+2]<3>", "2:[x]<error: Va>"]),
        ([0], mixed(5, Use.TURN, 2), ["0:a[1+2]<3>b[3*4]<12>"]),
    ]


@pytest.mark.parametrize(
    ("texts", "options", "spelling", "text", "reason"),
    [
        # Out of calls: what stands before the call is the answer.
        (["[1]", "[2]", "no [3] more"], {}, "[1]{<1>}[2]{<2>}no [3]", "no ", "calls"),
        # No room for what the tool says and a token after it; none for the rest.
        (["ab[1+1]", "x"], {"most": 10}, "ab[1+1]", "ab", "length"),
        (["ab[1+1]", "xyz"], {"most": 11}, "ab[1+1]{<2>}x", "x", "length"),
        (["ab[1+1]"], {"most": 6}, "ab[1+1", "ab[1+1", "length"),
        # The end of a call alone is one that failed; a stop text before it ends the answer.
        (["a]", "b"], {"most": 60, "characters": 99}, "a]{<error: no call begins with [>}b|", "b", "end"),
        (["ab;[1]"], {"stop": (";",)}, "ab;", "ab", "stop"),
        (["[1;2]", "b;"], {"stop": (";",)}, "[1;", "[1", "stop"),
        # Only so much of what a tool says is read.
        (["[10**12]", "b"], {}, "[10**12]{<100000000>}b|", "b", "end"),
        # The last of several beginnings.
        (["[[1]", "b"], {}, "[[1]{<1>}b|", "b", "end"),
    ],
)  # fmt: skip
def test_how_a_call_ends(monkeypatch, texts, options, spelling, text, reason):
    [found], _ = talked(monkeypatch, texts, **options)
    assert (spelled(found), found.text, found.reason) == (spelling, text, reason)
    assert len(found.ids) <= options.get("most", 40) and found.sampled == len(found.drawn)
    assert found.unanswered == (reason in ("calls", "length") and found.ids[-1] == ord("]"))


def test_calls_that_were_made_before_are_not_made_again(monkeypatch):
    """A tool may say something else now."""
    known = [[tool_turns.Turn("", "1+2", [tool_turns.Result("calculator", "1+2", "7")]), tool_turns.Turn("", "9", [])]]
    [found], _ = talked(monkeypatch, ["[1+2]", "[3*4]", "b"], before=known)
    assert spelled(found) == "[1+2]{<7>}[3*4]{<12>}b|"


TASK = Task("", (), {}, "here", Conversation([{"role": "user", "content": "a"}], {}, "here"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chatml", "<|im_end|>\n<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\n"),
        ("llama3", "<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n3<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
    ],
)  # fmt: skip
def test_in_a_conversation_it_is_the_turn_of_a_tool(name, text):
    """As the template writes it; what would be read as another turn is a failed call."""
    tools = types.SimpleNamespace(names=("calculator",), marks=MARKS)
    template = chat.template(BYTES, name)
    tool_turns.check_template(BYTES, template, tools)
    results = [tool_turns.Result("calculator", "1+2", "3")]
    ids, read = tool_turns.read(BYTES, tools, template, TASK, results)
    assert bytes(ids).decode() == text and read == results
    end = text.partition("3")[2]
    ids, [refused] = tool_turns.read(BYTES, tools, template, TASK, [results[0]._replace(text=f"3{end}hello")])
    assert refused.failed and "hello" not in bytes(ids).decode() and bytes(ids).decode().count(end) == 1


def test_a_template_without_such_a_turn_is_refused():
    tools = types.SimpleNamespace(names=("calculator",), marks=MARKS)
    with pytest.raises(UserError, match=r"config.tools.use = .*no turn for what tools say .*must alternate"):
        tool_turns.check_template(BYTES, chat.template(BYTES, "gemma"), tools)


def test_a_conversation_calls_tools(monkeypatch):
    """What the model reads after a call is what the conversation is as a whole."""
    writer = Writer(["let me see [1+2]", "it is 3"])
    monkeypatch.setattr(tool_turns, "written_ids", writer)
    monkeypatch.setattr(conversation, "check_writer", lambda loaded: None)
    monkeypatch.setattr(conversation.decode, "laid_out", lambda params, consume: params)
    model = types.SimpleNamespace(max_tokens=400)
    loaded = types.SimpleNamespace(
        source=None, model=model, params={}, tokenizer=BYTES, template=None, reads_prompt=False
    )
    tools = Toolbox({"calculator": Calculator()}, "text", MARKS, 2, 9)
    talk = conversation.Conversation(loaded, template="chatml", tools=tools)
    talk.reset("Be right.")
    answer = talk.say("what is 1+2?")
    assert (answer.text, answer.reason, len(answer.turns)) == ("it is 3", "end", 1)
    assert [message["content"] for message in talk.messages[2:]] == ["let me see [1+2]", "3", "it is 3"]
    assert [message["role"] for message in talk.messages] == ["system", "user", "assistant", "tool", "assistant"]
    for turn, messages in enumerate((talk.messages[:2], talk.messages[:4])):
        assert writer.asked[turn][2] == [chat.render(BYTES, messages, True, template="chatml")]
