"""Text to ids and back: exact, piece by piece, and never more than a few ids at a time."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import DONE, PROMPT, THINK, tokenizer

from glimp_integrations.backends.hf.token_text import (
    IncrementalDetokenizer,
    TokenHistory,
    Vocabulary,
)

UNKNOWN = "\ufffd"
# A replacement character looks like half a character until something follows it.
texts = st.text(max_size=40).filter(lambda text: UNKNOWN not in text)
words = st.lists(
    st.sampled_from(
        ["once", " upon", " a", " time", ".", "\n", "\n\n", " ", "🦄", "é", "中文", "x"]
    ),
    max_size=12,
).map("".join)
SENTENCEPIECE = ["always", "first", "newlines"]


class Recorded(Vocabulary):
    """A vocabulary that remembers what it was asked."""

    def __init__(self, tokens: object) -> None:
        super().__init__(tokens)
        self.encoded: list[str] = []
        self.decoded: list[int] = []

    def encode(self, text: str, *, inside: bool = False) -> list[int]:
        self.encoded.append(text)
        return super().encode(text, inside=inside)

    def decode(self, ids: list[int]) -> str:
        self.decoded.append(len(ids))
        return super().decode(ids)


def pieces(vocabulary: Vocabulary, before: list[int], ids: list[int]) -> list[str]:
    """What a detokenizer says at every token."""
    detokenizer = IncrementalDetokenizer(vocabulary, before)
    return [detokenizer.add(token)[1] for token in ids]


class TestVocabulary:
    @settings(deadline=None)
    @given(texts)
    @example("naïve 🦄 e\u0301 中文\r\n\t \u2060")
    def test_any_text_comes_back_as_it_was(self, text):
        vocabulary = Vocabulary(tokenizer("bytes"))
        assert vocabulary.decode(vocabulary.encode(text)) == text

    def test_nothing_is_put_around_a_text(self):
        assert Vocabulary(tokenizer()).encode("") == []

    def test_spaces_before_punctuation_are_kept(self):
        vocabulary = Vocabulary(tokenizer())
        assert vocabulary.decode(vocabulary.encode("is it ? no , it is")) == "is it ? no , it is"

    def test_a_blank_line_at_the_end_is_read_as_in_front_of_a_word(self):
        vocabulary = Vocabulary(tokenizer())
        assert tokenizer().tokenize("is four.\n\n")[-1] == "ĊĊ"  # alone it would be another
        for text in ("is four.\n\n", "is four. ", "is\n \n", "\n", " "):
            whole = vocabulary.encode(text + "x")
            assert whole[: len(vocabulary.encode(text))] == vocabulary.encode(text)
            assert vocabulary.decode(vocabulary.encode(text)) == text

    def test_control_tokens_of_a_template_are_one_id_and_are_shown(self):
        vocabulary = Vocabulary(tokenizer())
        assert vocabulary.encode("<think>") == [THINK]
        assert vocabulary.decode([THINK, DONE]) == "<think></think>"

    def test_control_tokens_are_known_by_name(self):
        vocabulary = Vocabulary(tokenizer())
        control = vocabulary.control_tokens()
        assert {"<|im_start|>", "</think>"} <= control
        assert not {"<thinking>", "the"} & control


class TestTokenizersThatInventASpace:
    @pytest.mark.parametrize("kind", SENTENCEPIECE)
    def test_they_do(self, kind):
        assert tokenizer(kind).tokenize("upon")[0].startswith("▁")

    @pytest.mark.parametrize("kind", SENTENCEPIECE)
    @settings(deadline=None)
    @given(text=words)
    @example(text="upon")
    @example(text=" upon")
    @example(text="\n\nso")
    @example(text="\nso")
    def test_the_rest_of_a_text_gets_none(self, kind, text):
        vocabulary = Vocabulary(tokenizer(kind))
        ids = vocabulary.encode("once") + vocabulary.encode(text, inside=True)
        assert vocabulary.decode(ids) == "once" + text

    def test_the_beginning_of_a_text_is_read_as_the_tokenizer_does(self):
        tokens = tokenizer("always")
        assert Vocabulary(tokens).encode("upon") == tokens.encode("upon")


class TestTokenHistory:
    def test_the_models_own_tokens_stay_as_it_chose_them(self):
        vocabulary, history = Vocabulary(tokenizer()), TokenHistory()
        first = history.ids("once upon", vocabulary)
        own = [vocabulary.encode(letter)[0] for letter in "the"]
        assert own != vocabulary.encode("the")
        history.append(own, "the")
        assert history.ids("once uponthe fox", vocabulary) == [
            *first,
            *own,
            *vocabulary.encode(" fox"),
        ]

    def test_only_new_text_is_encoded(self):
        vocabulary, history = Recorded(tokenizer()), TokenHistory()
        history.ids("once", vocabulary)
        history.append(vocabulary.encode(" upon"), " upon")
        vocabulary.encoded.clear()
        history.ids("once upon a time", vocabulary)
        history.ids("once upon a time", vocabulary)
        assert vocabulary.encoded == [" a time"]

    def test_what_was_encoded_once_stays_so_when_text_follows(self):
        vocabulary, history = Vocabulary(tokenizer()), TokenHistory()
        first = history.ids("once upo", vocabulary)
        assert history.ids("once upon", vocabulary)[: len(first)] == first
        assert vocabulary.encode("once upon")[: len(first)] != first

    def test_it_forgets_from_the_first_token_that_no_longer_fits(self):
        vocabulary, history = Recorded(tokenizer()), TokenHistory()
        first = history.ids("once", vocabulary)
        kept, dropped = vocabulary.encode(" upon"), vocabulary.encode(" a")
        history.append(kept, " upon")
        history.append(dropped, " a")
        history.append(vocabulary.encode(" tim"), " tim")
        vocabulary.encoded.clear()
        ids = history.ids("once upon the", vocabulary)
        assert ids == [*first, *kept, *Vocabulary(tokenizer()).encode(" the")]
        assert vocabulary.encoded == [" the"]
        # What it forgot does not come back.
        assert history.ids("once upon the time", vocabulary)[: len(ids)] == ids

    def test_a_shorter_text_is_the_beginning_of_the_old_one(self):
        vocabulary, history = Vocabulary(tokenizer()), TokenHistory()
        first = history.ids("once", vocabulary)
        history.append(vocabulary.encode(" upon"), " upon")
        assert history.ids("once", vocabulary) == first
        assert vocabulary.decode(history.ids("once u", vocabulary)) == "once u"

    @settings(deadline=None, max_examples=150)
    @given(
        kind=st.sampled_from(["bytes", *SENTENCEPIECE]),
        turns=st.lists(st.tuples(words, st.integers(0, 6), st.booleans()), min_size=1, max_size=6),
    )
    def test_ids_always_read_as_the_text_and_never_change_while_it_grows(self, kind, turns):
        vocabulary, history = Vocabulary(tokenizer(kind)), TokenHistory()
        text = "once"
        earlier = history.ids(text, vocabulary)
        for words, dropped, own in turns:
            cut = text[: max(4, len(text) - dropped)]
            shrunk, text = cut != text, cut
            if own and words:
                # The model writes it one character at a time, as no tokenizer would.
                history.ids(text, vocabulary)
                for letter in words:
                    history.append(vocabulary.encode(letter, inside=True), letter)
            text += words
            ids = history.ids(text, vocabulary)
            assert vocabulary.decode(ids) == text
            assert shrunk or ids[: len(earlier)] == earlier
            earlier = ids


class TestIncrementalDetokenizer:
    @settings(deadline=None)
    @given(before=texts, text=texts)
    @example(before="so 🦄", text="🦄🦄é中文!")
    def test_any_text_is_spelled_exactly(self, before, text):
        vocabulary = Vocabulary(tokenizer("bytes"))
        written = pieces(vocabulary, vocabulary.encode(before), vocabulary.encode(text))
        assert "".join(written) == text
        assert not any(UNKNOWN in piece for piece in written)

    @pytest.mark.parametrize("kind", SENTENCEPIECE)
    @settings(deadline=None)
    @given(before=words, text=words)
    @example(before="once", text=" upon a time")
    @example(before="once", text="中文中文")
    @example(before="once 中文", text="é🦄")
    def test_so_it_is_with_bytes_as_tokens(self, kind, before, text):
        vocabulary = Vocabulary(tokenizer(kind))
        ids = vocabulary.encode("so" + before)
        written = pieces(vocabulary, ids, vocabulary.encode(text, inside=True))
        assert "".join(written) == text

    def test_a_character_comes_with_the_token_that_completes_it(self):
        vocabulary = Vocabulary(tokenizer("bytes"))
        detokenizer = IncrementalDetokenizer(vocabulary, vocabulary.encode("so"))
        ids = vocabulary.encode("🦄")
        assert len(ids) == 4
        assert [detokenizer.add(token) for token in ids] == [([], "")] * 3 + [(ids, "🦄")]

    def test_bytes_that_are_no_character_are_not_kept_back_for_ever(self):
        vocabulary = Vocabulary(tokenizer("bytes"))
        written = pieces(vocabulary, vocabulary.encode("so"), vocabulary.encode("é")[:1] * 12)
        assert len("".join(written)) >= 9
        assert set("".join(written)) == {UNKNOWN}

    @settings(deadline=None, max_examples=300)
    @given(data=st.data())
    def test_any_tokens_read_as_they_do_at_once(self, data):
        vocabulary = Vocabulary(tokenizer("bytes"))
        bytes_ = [*vocabulary.encode("🦄é中"), *vocabulary.encode("ab")]
        ids = data.draw(st.lists(st.sampled_from(bytes_), max_size=20))
        before = vocabulary.encode("so")
        written = "".join(pieces(vocabulary, before, ids))
        whole = vocabulary.decode(before + ids)[len("so") :]
        assert whole.startswith(written)
        # At most one character is still open.
        assert len(vocabulary.encode(whole[len(written) :])) <= 3 * len(UNKNOWN.encode())

    def test_a_long_text_costs_a_few_ids_a_token(self):
        vocabulary = Recorded(tokenizer("bytes"))
        ids = vocabulary.encode((PROMPT + "🦄") * 20)
        vocabulary.decoded.clear()
        assert "".join(pieces(vocabulary, ids, ids)) == (PROMPT + "🦄") * 20
        assert max(vocabulary.decoded) <= 8
        assert len(vocabulary.decoded) <= 2 * len(ids) + 8
