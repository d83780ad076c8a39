"""The scanner: delimiters stay, terminators vanish, wherever pieces begin and end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimp_integrations.method.boundaries import Cut, Scanner

THINK = {"</think>": "think_end"}


def feed(scanner: Scanner, *pieces: str, multi_token: bool = False) -> list[Cut]:
    return [scanner.feed(piece, multi_token=multi_token) for piece in pieces]


class TestDelimiter:
    @pytest.mark.parametrize(
        "pieces", [("a\n\n",), ("a", "\n\n"), ("a\n", "\n"), ("a", "\n", "\n"), ("a.", ".\n\n")]
    )
    def test_ends_the_step_and_is_kept(self, pieces):
        cuts = feed(Scanner("\n\n", {}), *pieces)
        assert [cut.end for cut in cuts] == [None] * (len(pieces) - 1) + ["delimiter"]
        assert "".join(cut.shown for cut in cuts) == "".join(pieces)
        assert [cut.kept for cut in cuts] == [len(piece) for piece in pieces]
        assert not cuts[-1].truncated

    @pytest.mark.parametrize("token", ["\n\n\n", ".\n\n\n\n", ".\n\n"])
    def test_newlines_of_the_same_token_are_kept(self, token):
        (cut,) = feed(Scanner("\n\n", {}), token)
        assert (cut.shown, cut.kept, cut.truncated) == (token, len(token), False)

    def test_text_behind_it_is_left_over(self):
        (cut,) = feed(Scanner("\n\n", {}), "a\n\nFoo")
        assert cut == Cut("a\n\n", 3, "delimiter", truncated=True)

    def test_surplus_newlines_of_a_group_are_dropped(self):
        (cut,) = feed(Scanner("\n\n", {}), "a\n\n\nb", multi_token=True)
        assert cut == Cut("a\n\n", 3, "delimiter", truncated=True)

    def test_one_newline_is_no_delimiter(self):
        cuts = feed(Scanner("\n\n", {}), "a\n", "b\n", "c")
        assert [cut.end for cut in cuts] == [None, None, None]

    def test_does_not_count_newlines_of_the_step_before(self):
        cuts = feed(Scanner("\n\n", {}), "a\n\n", "\n", "b")
        assert [cut.end for cut in cuts] == ["delimiter", None, None]

    def test_does_not_span_a_step_that_ended_at_its_cap(self):
        scanner = Scanner("\n\n", {})
        feed(scanner, "a\n")
        scanner.end_step()
        assert feed(scanner, "\n")[0].end is None

    def test_longer_delimiter_across_three_pieces(self):
        cuts = feed(Scanner("###", {}), "a#", "#", "#b")
        assert [cut.end for cut in cuts] == [None, None, "delimiter"]
        assert cuts[-1] == Cut("#", 1, "delimiter", truncated=True)

    def test_none_means_no_steps(self):
        (cut,) = feed(Scanner(None, {}), "a\n\nb")
        assert cut == Cut("a\n\nb", 4, None, truncated=False)


class TestTerminator:
    @pytest.mark.parametrize(
        "pieces",
        [("ok</think>",), ("ok", "</think>"), ("ok</th", "ink>"), tuple("ok</think>")],
    )
    def test_is_never_shown(self, pieces):
        scanner = Scanner("\n\n", THINK)
        cuts = feed(scanner, *pieces)
        assert "".join(cut.shown for cut in cuts) == "ok"
        assert cuts[-1].end == "think_end"
        assert sum(cut.kept for cut in cuts) == len("ok")
        assert not cuts[-1].truncated
        assert scanner.flush() == ""

    def test_text_behind_it_is_left_over(self):
        (cut,) = feed(Scanner("\n\n", THINK), "ok</think>\n\nSo")
        assert cut == Cut("ok", 2, "think_end", truncated=True)

    def test_a_false_start_is_released_with_the_next_piece(self):
        cuts = feed(Scanner("\n\n", THINK), "x </th", "ing")
        assert [cut.shown for cut in cuts] == ["x ", "</thing"]
        assert [cut.kept for cut in cuts] == [6, 3]

    def test_a_false_start_is_released_at_the_end(self):
        scanner = Scanner("\n\n", THINK)
        (cut,) = feed(scanner, "x </think")
        assert cut.shown == "x "
        assert scanner.flush() == "</think"
        assert scanner.flush() == ""

    def test_a_second_start_is_found_behind_a_false_one(self):
        cuts = feed(Scanner("\n\n", THINK), "<</th", "ink>")
        assert "".join(cut.shown for cut in cuts) == "<"
        assert cuts[-1].end == "think_end"

    def test_behind_a_delimiter_it_belongs_to_the_next_step(self):
        (cut,) = feed(Scanner("\n\n", THINK), "a\n\n</think>")
        assert cut == Cut("a\n\n", 3, "delimiter", truncated=True)

    def test_in_front_of_a_delimiter_it_wins(self):
        (cut,) = feed(Scanner("\n\n", THINK), "a</think>\n\n")
        assert cut == Cut("a", 1, "think_end", truncated=True)


class TestStops:
    @pytest.mark.parametrize("pieces", [("a\n\n",), ("a", "\n\n"), ("a\n", "\n")])
    def test_a_stop_equal_to_the_delimiter_wins(self, pieces):
        cuts = feed(Scanner("\n\n", {"\n\n": "stop"}), *pieces)
        assert cuts[-1].end == "stop"
        assert "".join(cut.shown for cut in cuts) == "a"

    def test_a_stop_that_begins_with_the_delimiter_in_one_piece(self):
        (cut,) = feed(Scanner("\n\n", {"\n\nUser:": "stop"}), "a\n\nUser: b")
        assert cut == Cut("a", 1, "stop", truncated=True)

    def test_a_stop_across_the_end_of_a_step_takes_back_the_delimiter(self):
        cuts = feed(Scanner("\n\n", {"\n\nUser:": "stop"}), "a\n\n", "User:")
        assert cuts[0] == Cut("a", 3, "delimiter", truncated=False)
        assert cuts[1] == Cut("", -2, "stop", truncated=False)

    def test_the_first_of_two_wins(self):
        (cut,) = feed(Scanner(None, {"bb": "stop", "a": "stop"}), "xabb")
        assert (cut.shown, cut.end) == ("x", "stop")

    def test_the_longer_of_two_at_one_place_wins(self):
        (cut,) = feed(Scanner(None, {"ab": "stop", "abc": "think_end"}), "xabc")
        assert cut == Cut("x", 1, "think_end", truncated=False)


# -- properties ------------------------------------------------------------------------------

LETTERS = st.sampled_from(["a", "b", "\n", "\n\n", "<", "</e>", "</", "e>", "STOP", "ST", "OP"])
ENDS = {"</e>": "think_end", "STOP": "stop", "\n\na": "stop"}


def read_whole(pieces: list[str], *, multi_token: bool) -> tuple[str, list[Cut], Scanner]:
    """What a reader sees of all pieces up to a terminator, what is kept, and the scanner."""
    scanner = Scanner("\n\n", ENDS)
    kept, cuts = "", []
    for piece in pieces:
        while piece:
            cut = scanner.feed(piece, multi_token=multi_token)
            cuts.append(cut)
            kept = kept[: len(kept) + cut.kept] if cut.kept < 0 else kept + piece[: cut.kept]
            if cut.end in ("think_end", "stop"):
                return kept, cuts, scanner
            piece = piece[cut.kept :]  # the next author writes the dropped text again
    return kept, cuts, scanner


@given(st.lists(LETTERS, max_size=30), st.booleans())
def test_shown_and_flushed_text_is_the_kept_text(pieces, multi_token):
    kept, cuts, scanner = read_whole(pieces, multi_token=multi_token)
    assert "".join(cut.shown for cut in cuts) + scanner.flush() == kept


@given(st.lists(LETTERS, max_size=30))
def test_nothing_shown_is_taken_back(pieces):
    scanner = Scanner("\n\n", ENDS)
    kept, shown = 0, 0
    for piece in pieces:
        cut = scanner.feed(piece, multi_token=False)
        kept, shown = kept + cut.kept, shown + len(cut.shown)
        assert shown <= kept
        if cut.end in ("think_end", "stop"):
            assert shown == kept
            break


def steps_of(text: str, sizes: list[int]) -> list[str]:
    """The steps of a text that a server sends in groups of the given sizes."""
    scanner = Scanner("\n\n", THINK)
    steps, at, turn = [""], 0, 0
    while at < len(text):
        piece = text[at : at + sizes[turn % len(sizes)]]
        turn += 1
        cut = scanner.feed(piece, multi_token=True)
        steps[-1] = steps[-1][: cut.kept] if cut.kept < 0 else steps[-1] + piece[: cut.kept]
        if cut.end == "think_end":
            break
        if cut.end == "delimiter":
            steps.append("")
        at += cut.kept
    return steps


@given(st.text(alphabet="a\n<", max_size=40), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_steps_of_grouped_text_do_not_depend_on_the_groups(text, sizes):
    assert steps_of(text, sizes) == steps_of(text, [1])
    assert steps_of(text, sizes) == steps_of(text, [1000])


@given(
    st.text(alphabet="a\n", max_size=20),
    st.text(alphabet="a\n</", max_size=20),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_the_end_of_thinking_is_found_in_any_grouping(before, after, sizes):
    text = f"{before}</think>{after}"
    assert "".join(steps_of(text, sizes)) == before
