"""The Dockerfile front end: lines, words, expansion, instructions, stages and the texts of errors."""

from __future__ import annotations

import contextlib
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.image.build.dockerfile.errors import DockerfileError, SyntaxProblem
from services.image.build.dockerfile.expand import expand_text, expand_word, expand_words
from services.image.build.dockerfile.instructions import Command, Copy, Env, Health, Label, Run, Text, Words
from services.image.build.dockerfile.lines import read_lines
from services.image.build.dockerfile.stages import parse_dockerfile, parse_trigger, stage_references
from services.image.build.dockerfile.words import cut_flags, json_array

ENV = {"x": "abc", "empty": "", "path": "a/b/c.tar.gz", "spaced": "one  two", "q": 'say "hi"', "_u1": "u"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$x", "abc"),
        ("${x}", "abc"),
        ("$xy", ""),
        ("${x}y", "abcy"),
        ("$_u1-", "u-"),
        ("a$", "a$"),
        ("$ x", "$ x"),
        (r"\$x", "$x"),
        ("'$x'", "$x"),
        ('"$x"', "abc"),
        (r'"\$x \a \" \\"', '$x \\a " \\'),
        (r"\a\ b", "a b"),
        (r"a\\", "a\\"),
        ("${none:-d}", "d"),
        ("${none-d}", "d"),
        ("${empty:-d}", "d"),
        ("${empty-d}", ""),
        ("${x:-d}", "abc"),
        ("${none:-$x}", "abc"),
        ("${none:-${empty:-deep}}", "deep"),
        ("${x:+y}", "y"),
        ("${empty:+y}", ""),
        ("${empty+y}", "y"),
        ("${none+y}", ""),
        ("${x:?text}", "abc"),
        ("${empty?text}", ""),
        ("${path#*/}", "b/c.tar.gz"),
        ("${path##*/}", "c.tar.gz"),
        ("${path%.*}", "a/b/c.tar"),
        ("${path%%.*}", "a/b/c"),
        ("${path#a?b}", "/c.tar.gz"),
        ("${path#z}", "a/b/c.tar.gz"),
        ("${path/b/X}", "a/X/c.tar.gz"),
        ("${path//\\//-}", "a-b-c.tar.gz"),
        ("${x/b/}", "ac"),
        ("${none/b/c}", ""),
        ("$1$@", ""),
        ("${1}", ""),
        ('${none:-"a b"}', "a b"),
        ("ü$x", "üabc"),
    ],
)
def test_expansion(text: str, value: str) -> None:
    assert expand_word(text, ENV) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${}", "syntax error: bad substitution"),
        ("${:x}", "syntax error: bad substitution"),
        ("${{x}", "syntax error: bad substitution"),
        ("${x", "missing"),
        ("${", "syntax error: missing '}'"),
        ("${x:-", "syntax error: missing '}'"),
        ("${x~y}", "unsupported modifier (~) in substitution"),
        ("${x:~y}", "unsupported modifier (:~) in substitution"),
        ("${none:?give one}", "none: give one"),
        ("${none?}", "none: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("'x", "looking for matching single-quote"),
        ('"x', "looking for matching double-quote"),
    ],
)
def test_expansion_errors(text: str, problem: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        expand_word(text, ENV)
    assert problem in str(caught.value)
    assert str(caught.value).startswith("failed to process ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", ["a", "b"]),
        ("$spaced", ["one", "two"]),
        ('"$spaced"', ["one  two"]),
        ("'' x", ["", "x"]),
        (r"a\ b c", ["a b", "c"]),
        ("$none", []),
        ("a$spaced", ["aone", "two"]),
    ],
)
def test_words_come_apart_at_white_space(text: str, words: list[str]) -> None:
    assert expand_words(text, ENV) == words


def test_escape_character_is_the_files_own() -> None:
    assert expand_word("`$x \\$x", ENV, escape="`") == "$x \\abc"


def test_here_documents_keep_quotes() -> None:
    assert expand_text("\"$x\" '$x' \\$x \\n ${none:-d}\n", ENV) == "\"abc\" 'abc' $x \\n d\n"


plain = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30)


@settings(deadline=None)
@given(plain)
def test_single_quotes_keep_everything(text: str) -> None:
    word = text.replace("'", "")
    assert expand_word(f"'{word}'", ENV) == word


@settings(deadline=None)
@given(plain)
def test_escaping_every_character_keeps_everything(text: str) -> None:
    assert expand_word("".join("\\" + char for char in text), ENV) == text
    assert expand_words("".join("\\" + char for char in text), {}) == ([text] if text else [])


@settings(deadline=None)
@given(plain, plain)
def test_values_are_not_expanded_again(value: str, default: str) -> None:
    assert expand_word("$v", {"v": value}) == value
    assert expand_word('"${v:-d}"', {"v": value}) == (value or "d")
    assert expand_text("${v}", {"v": default}) == default


@settings(deadline=None)
@given(st.text(st.sampled_from("ab $'\"\\{}:-+?#%/*x"), max_size=14))
def test_expansion_ends_with_a_value_or_a_syntax_problem(text: str) -> None:
    with contextlib.suppress(SyntaxProblem):
        assert isinstance(expand_word(text, ENV), str)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8), min_size=1, max_size=4))
def test_quoted_words_agree_with_the_shell(words: list[str]) -> None:
    text = " ".join(shlex.quote(word + " $x") for word in words)
    assert expand_words(text, ENV) == shlex.split(text)


@settings(deadline=None)
@given(st.text(st.sampled_from("FROM RUNCOPYENVARG\n\\<>=-[]\"'$#{} abE"), max_size=120))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(DockerfileError):
        assert parse_dockerfile(text).stages


def test_lines_continuations_comments_and_numbers() -> None:
    lines = read_lines(
        "# syntax=docker/dockerfile:1\r\n# escape=`\r\n\r\n# a comment\r\nfrom x`\r\n  # inside\r\n as y\r\n"
        "RUN a `  \n\n  b\\\nEXPOSE 1\n"
    )
    assert lines.directives == {"syntax": "docker/dockerfile:1", "escape": "`"}
    assert [(node.keyword, node.rest, node.line, node.end_line) for node in lines.nodes] == [
        ("FROM", "x as y", 5, 7),
        ("RUN", "a   b\\", 8, 10),
        ("EXPOSE", "1", 11, 11),
    ]
    assert lines.nodes[0].source == "from x as y"
    assert lines.warnings == (
        "[WARNING]: Empty continuation line found in:\n    RUN a   b\\",
        "[WARNING]: Empty continuation lines will become errors in a future release.",
    )


def test_a_comment_that_looks_like_a_directive_later_is_a_comment() -> None:
    assert read_lines("# hello\n# escape=`\nFROM x\\\ny").nodes[0].rest == "xy"


def test_byte_order_mark_is_dropped() -> None:
    assert read_lines("\ufeffFROM x\n").nodes[0].keyword == "FROM"


def test_here_documents() -> None:
    node, after = read_lines("RUN <<A cat - 3<<-'B' | x\none\nA\n\ttwo\n\tB\nRUN echo \"<<no\" $((1<<2))\n").nodes
    assert [(doc.name, doc.content, doc.expand, doc.chomp, doc.descriptor) for doc in node.heredocs] == [
        ("A", "one\n", True, False, ""),
        ("B", "\ttwo\n", False, True, "3"),
    ]
    assert node.heredocs[1].text() == "two\n"
    assert after.heredocs == ()
    assert after.line == 6


def test_unterminated_here_document_names_its_line() -> None:
    with pytest.raises(DockerfileError, match="dockerfile parse error line 2: unterminated heredoc") as caught:
        read_lines("FROM x\nRUN <<E\na\n")
    assert caught.value.line == 2


def test_flags_end_at_the_first_other_word() -> None:
    assert cut_flags('--a=1 --b="x y" --c\\ d word --e') == (["--a=1", "--b=x y", "--c d"], "word --e")
    assert cut_flags("-- --a x") == ([], "--a x")


@pytest.mark.parametrize(
    ("text", "array"),
    [('["a", "b"]', ["a", "b"]), ("[a]", None), ("['a']", None), ("x", None), ("[]", []), ('["\\u00e9"]', ["é"])],
)
def test_json_arrays(text: str, array: list[str] | None) -> None:
    assert json_array(text) == array


def one(text: str) -> object:
    return parse_dockerfile("FROM x\n" + text).stages[0].instructions[0]


def test_every_instruction() -> None:
    copy = one("COPY --from=a --chown=1:2 --chmod=u+x --parents --exclude=*.o --exclude=b --link a 'b' c/")
    assert isinstance(copy, Copy)
    assert (copy.sources, copy.destination) == (("a", "'b'"), "c/")
    assert (copy.origin, copy.chown, copy.chmod, copy.exclude) == ("a", "1:2", "u+x", ("*.o", "b"))
    assert copy.parents
    assert copy.link
    array = one('ADD --checksum=sha256:0 --keep-git-dir=true --unpack=false ["a b", "/x y"]')
    assert isinstance(array, Copy)
    assert (array.sources, array.destination, array.unpack) == (("a b",), "/x y", False)
    run = one('RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --network=none ["a", "b c"]')
    assert isinstance(run, Run)
    assert (run.words, run.shell, run.network) == (("a", "b c"), False, "none")
    assert len(run.mounts) == 2
    assert isinstance(env := one("ENV a=1 b='x y' c=d\\ e"), Env)
    assert env.pairs == (("a", "1"), ("b", "'x y'"), ("c", "d\\ e"))
    assert isinstance(old := one("ENV a b  c=d "), Env)
    assert old.pairs == (("a", "b  c=d"),)
    assert isinstance(label := one('LABEL "a b"=c'), Label)
    assert label.pairs == (('"a b"', "c"),)
    assert isinstance(cmd := one("CMD echo hi"), Command)
    assert (cmd.words, cmd.shell) == (("echo hi",), True)
    assert isinstance(entry := one('ENTRYPOINT ["a"]'), Command)
    assert (entry.words, entry.shell) == (("a",), False)
    assert isinstance(health := one("HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD a b"), Health)
    assert health.check.test == ("CMD-SHELL", "a b")
    assert (health.check.interval_ns, health.check.timeout_ns, health.check.retries) == (90 * 10**9, 5 * 10**8, 3)
    assert isinstance(none := one("HEALTHCHECK NONE"), Health)
    assert none.check.test == ("NONE",)
    assert isinstance(volume := one('VOLUME ["/a b"]'), Words)
    assert volume.words == ("/a b",)
    assert isinstance(expose := one("EXPOSE 80 90/udp"), Words)
    assert expose.words == ("80", "90/udp")
    assert isinstance(shell := one('SHELL ["a", "-c"]'), Words)
    assert shell.words == ("a", "-c")
    assert isinstance(user := one("USER a b"), Text)
    assert user.text == "a b"


def test_onbuild_keeps_its_here_document() -> None:
    trigger = one("ONBUILD COPY <<E /x\nhi\nE\n")
    assert isinstance(trigger, Text)
    copy = parse_trigger(trigger.text)
    assert isinstance(copy, Copy)
    assert copy.heredocs["<<E"].content == "hi\n"


# The left column is what the reference engine (20.10) answers to the same file.
@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("the Dockerfile (Dockerfile) cannot be empty", ""),
        ("failed to parse Dockerfile: file with no instructions", "# only\n"),
        ("dockerfile parse error line 1: FROM requires either one or three arguments", "FROM"),
        ("dockerfile parse error line 1: FROM requires either one or three arguments", "FROM a b"),
        (
            'dockerfile parse error line 1: invalid name for build stage: "1x", '
            "name can't start with a number or contain symbols",
            "FROM b AS 1x",
        ),
        ("no build stage in current context", "COPY a /"),
        ("dockerfile parse error line 2: ENV requires at least one argument", "FROM b\nENV"),
        ("dockerfile parse error line 2: ENV must have two arguments", "FROM b\nENV a"),
        (
            'dockerfile parse error line 2: Syntax error - can\'t find = in "c". Must be of the form: name=value',
            "FROM b\nENV a=b c",
        ),
        ("dockerfile parse error line 2: ENV names can not be blank", "FROM b\nENV =b"),
        (
            "dockerfile parse error line 2: COPY requires at least two arguments, but only one was provided. "
            "Destination could not be determined",
            "FROM b\nCOPY a",
        ),
        ("dockerfile parse error line 2: Unknown flag: bogus", "FROM b\nCOPY --bogus=1 a /"),
        ("dockerfile parse error line 2: Missing a value on flag: chown", "FROM b\nCOPY --chown a /"),
        (
            "dockerfile parse error line 2: Duplicate flag specified: interval",
            "FROM b\nHEALTHCHECK --interval=1s --interval=2s CMD x",
        ),
        (
            "dockerfile parse error line 2: when using JSON array syntax, arrays must be comprised of strings only",
            "FROM b\nRUN [1]",
        ),
        ("dockerfile parse error line 2: EXPOSE requires at least one argument", "FROM b\nEXPOSE"),
        ("dockerfile parse error line 2: VOLUME requires at least one argument", "FROM b\nVOLUME"),
        ("dockerfile parse error line 2: VOLUME specified can not be an empty string", 'FROM b\nVOLUME ["",""]'),
        ("dockerfile parse error line 2: USER requires exactly one argument", "FROM b\nUSER"),
        ("dockerfile parse error line 2: HEALTHCHECK requires at least one argument", "FROM b\nHEALTHCHECK"),
        ('dockerfile parse error line 2: Unknown type "FOO" in HEALTHCHECK (try CMD)', "FROM b\nHEALTHCHECK FOO"),
        ("dockerfile parse error line 2: HEALTHCHECK NONE takes no arguments", "FROM b\nHEALTHCHECK NONE x"),
        ("dockerfile parse error line 2: Missing command after HEALTHCHECK CMD", "FROM b\nHEALTHCHECK CMD"),
        (
            'dockerfile parse error line 2: Interval "interval" cannot be less than 1ms',
            "FROM b\nHEALTHCHECK --interval=1us CMD x",
        ),
        ('dockerfile parse error line 2: time: invalid duration "x"', "FROM b\nHEALTHCHECK --interval=x CMD x"),
        (
            'dockerfile parse error line 2: time: invalid duration "9999999999h"',
            "FROM b\nHEALTHCHECK --interval=9999999999h CMD x",
        ),
        (
            "dockerfile parse error line 2: --retries must be at least 1 (not -1)",
            "FROM b\nHEALTHCHECK --retries=-1 CMD x",
        ),
        ("dockerfile parse error line 2: ONBUILD requires at least one argument", "FROM b\nONBUILD"),
        ("dockerfile parse error line 2: FROM isn't allowed as an ONBUILD trigger", "FROM b\nONBUILD FROM x"),
        (
            "dockerfile parse error line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            "FROM b\nONBUILD ONBUILD RUN x",
        ),
        ("dockerfile parse error line 2: SHELL requires the arguments to be in JSON form", "FROM b\nSHELL sh"),
        ("dockerfile parse error line 2: SHELL requires at least one argument", "FROM b\nSHELL []"),
        ("dockerfile parse error line 2: ARG names can not be blank", "FROM b\nARG =b"),
        ("failed to parse Dockerfile: invalid escape token 'x' does not match ` or \\", "# escape=x\nFROM b"),
        ("failed to parse Dockerfile: only one escape parser directive can be used", "# escape=`\n# escape=`\nFROM b"),
    ],
)
def test_errors(message: str, text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_dockerfile(text)
    assert str(caught.value) == message


def test_stages_and_what_they_need() -> None:
    file = parse_dockerfile(
        "ARG v=1\nFROM a AS Base\nFROM b\nRUN --mount=type=bind,from=base,target=/x true\n"
        "FROM c AS last\nCOPY --from=1 a b\nCOPY --from=image a b\n"
    )
    assert [stage.name for stage in file.stages] == ["base", "", "last"]
    needed = [stage_references(stage, file, given=lambda _: False) for stage in file.stages]
    assert needed == [set(), {0}, {1}]
    # What the client gave a name of its own is no stage.
    given = [stage_references(stage, file, given=lambda name: name == "base") for stage in file.stages]
    assert given == [set(), set(), {1}]
    assert len(file.until("1").stages) == 2
    assert len(file.until("BASE").stages) == 1
    with pytest.raises(DockerfileError, match="failed to reach build target zz in Dockerfile"):
        file.until("zz")
    with pytest.raises(DockerfileError, match="a stage name already used"):
        parse_dockerfile("FROM x AS a\nFROM y AS a\n")
