"""KV caches between requests: found, cut, copied, dropped, put together and taken apart."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import config
from transformers import DynamicCache

from glimp_integrations.backends.hf.caches import (
    CacheEntry,
    Pool,
    can_crop,
    common_prefix,
    crop,
    is_mergeable,
    merge,
    set_recording,
    size,
    split,
)

ids = st.lists(st.integers(0, 2), max_size=20)
TOKEN = 2 * 2 * 2 * 8 * 4
"""Bytes of one token of :func:`filled`: layers, keys and values, heads, numbers, float32."""


def empty(kind: str = "llama", **changes: Any) -> DynamicCache:
    """The empty cache of a tiny model."""
    return DynamicCache(config=config(kind, 10, **changes))


def read(cache: DynamicCache, ids: list[int]) -> DynamicCache:
    """A cache that has read ``ids`` after what it holds; every number tells its id."""
    if not ids:
        return cache
    states = torch.tensor(ids, dtype=torch.float32)[None, None, :, None].expand(1, 2, -1, 8)
    for layer in range(len(cache.layers)):
        cache.update(states + layer / 10, -states, layer)
    return cache


def filled(ids: list[int], kind: str = "llama", **changes: Any) -> CacheEntry:
    """A kept cache of these ids."""
    return CacheEntry(list(ids), read(empty(kind, **changes), ids))


def held(cache: DynamicCache) -> list[list[int]]:
    """The ids whose keys and values a cache holds, layer by layer; both have to agree."""
    layers = []
    for number, layer in enumerate(cache.layers):
        keys = (layer.keys[0, 0, :, 0] - number / 10).round().int().tolist()
        assert keys == (-layer.values[0, 1, :, 3]).round().int().tolist()
        layers.append(keys)
    return layers


def recurrent(ids: list[int]) -> CacheEntry:
    """A kept cache that cannot give single tokens back."""
    cache = empty("mamba")
    for layer in range(len(cache.layers)):
        cache.update_conv_state(torch.ones(1, 4, 3), layer)
        cache.update_recurrent_state(torch.ones(1, 4, 8), layer)
    return CacheEntry(list(ids), cache)


def pool(*kept: CacheEntry, limit: int = 1 << 30) -> Pool:
    """A pool that was given these caches, one after the other."""
    made = Pool(limit, "tiny")
    for item in kept:
        made.give(item)
    return made


class TestCommonPrefix:
    @given(ids, ids)
    def test_it_is_what_a_loop_finds(self, first, second):
        expected = 0
        for one, other in zip(first, second, strict=False):
            if one != other:
                break
            expected += 1
        assert common_prefix(first, second) == expected

    @given(ids, ids, ids)
    def test_it_reaches_over_a_shared_beginning(self, shared, first, second):
        assert common_prefix(shared + first, shared + second) >= len(shared)


class TestTaking:
    def test_an_empty_pool_has_nothing(self):
        assert pool().take([1, 2, 3]) is None

    def test_what_grew_is_taken_over_as_it_is(self):
        kept = filled([1, 2, 3])
        full = pool(kept)
        entry = full.take([1, 2, 3, 4, 5])
        assert entry is kept and entry.ids == [1, 2, 3]
        assert full.bytes == 0

    def test_it_is_not_given_twice(self):
        full = pool(filled([1, 2, 3]))
        assert full.take([1, 2, 3, 4]) is not None
        assert full.take([1, 2, 3, 4]) is None

    def test_the_last_id_is_left_to_read(self):
        entry = pool(filled([1, 2, 3, 4])).take([1, 2, 3, 4])
        assert entry.ids == [1, 2, 3]
        assert held(entry.cache) == [[1, 2, 3]] * 2

    def test_an_end_that_was_dropped_is_cut_off(self):
        entry = pool(filled([1, 2, 3, 4, 5])).take([1, 2, 3, 9, 9, 9])
        assert entry.ids == [1, 2, 3]
        assert held(entry.cache) == [[1, 2, 3]] * 2

    def test_without_a_common_beginning_there_is_no_cache(self):
        full = pool(filled([1, 2, 3]))
        assert full.take([7, 8, 9]) is None
        assert full.take([1]) is None  # its only id has to be read anyway
        assert full.bytes == 3 * TOKEN

    def test_the_longest_beginning_is_preferred(self):
        entry = pool(filled([1, 2, 3, 4]), filled([1, 2]), filled([1, 9, 9])).take([1, 2, 3, 4, 5])
        assert entry.ids == [1, 2, 3, 4]

    @pytest.mark.parametrize("exact_first", [True, False])
    def test_of_equally_good_ones_the_exact_fit_is_preferred(self, exact_first):
        exact, longer = filled([1, 2, 3]), filled([1, 2, 3, 4, 5])
        full = pool(*([exact, longer] if exact_first else [longer, exact]))
        assert full.take([1, 2, 3, 9]) is exact
        assert held(longer.cache) == [[1, 2, 3, 4, 5]] * 2

    def test_a_short_common_beginning_is_copied_and_the_long_conversation_stays(self):
        system, conversation = list(range(40)), list(range(100))
        full = pool(filled(conversation))
        entry = full.take([*system, 200, 201])
        assert entry.ids == system
        assert held(entry.cache) == [system] * 2
        assert full.bytes == 100 * TOKEN
        # The copy is one: what it reads does not show in the original.
        read(entry.cache, [200, 201])
        assert full.take([*conversation, 300]).ids == conversation

    def test_a_beginning_not_worth_copying_is_read_again(self):
        conversation = list(range(100))
        full = pool(filled(conversation))
        assert full.take([*range(10), 200]) is None
        assert full.take([*conversation, 300]).ids == conversation


class TestMemory:
    def test_the_least_recently_used_make_room(self):
        first, second, third = (filled([n] * 10) for n in (1, 2, 3))
        full = pool(first, second, limit=25 * TOKEN)
        full.give(full.take([1] * 11))  # used again
        full.give(third)
        assert full.take([2] * 11) is None
        assert full.take([1] * 11) is not None
        assert full.take([3] * 11) is not None

    def test_the_limit_holds(self):
        full = Pool(25 * TOKEN, "tiny")
        for number in range(6):
            full.give(filled([number] * (3 + number)))
            assert full.bytes <= 25 * TOKEN
        assert full.bytes > 0

    def test_what_is_larger_than_the_limit_is_not_kept_and_drives_nobody_out(self):
        full = pool(filled([1] * 10), limit=20 * TOKEN)
        full.give(filled([2] * 21))
        assert full.bytes == 10 * TOKEN
        assert full.take([1] * 11) is not None

    def test_no_memory_keeps_nothing(self):
        full = pool(filled([1, 2, 3]), limit=0)
        assert full.bytes == 0
        assert full.take([1, 2, 3, 4]) is None

    def test_a_cache_that_read_nothing_is_not_kept(self):
        assert pool(CacheEntry([], empty())).take([1, 2]) is None

    def test_clear_drops_all(self):
        full = pool(filled([1, 2, 3]), filled([4, 5, 6]))
        full.clear()
        assert full.bytes == 0
        assert full.take([1, 2, 3, 4]) is None

    def test_a_view_counts_with_what_it_keeps_alive(self):
        kept = filled(list(range(10)))
        assert size(kept.cache) == 10 * TOKEN
        assert crop(kept.cache, 9)
        assert size(kept.cache) == 10 * TOKEN

    def test_recurrent_states_count(self):
        assert size(recurrent([1]).cache) == 2 * (4 * 3 + 4 * 8) * 4


class TestWhatCannotBeCut:
    def test_full_attention_and_a_window_not_reached_can(self):
        assert can_crop(filled([1, 2, 3]).cache)
        kept = filled([1, 2, 3], "gemma2", sliding_window=6)
        assert can_crop(kept.cache)
        entry = pool(kept).take([1, 2, 9])
        assert held(entry.cache) == [[1, 2]] * 2
        assert entry.cache.layers[0].get_seq_length() == 2

    @pytest.mark.parametrize("count", [6, 7, 12])
    def test_a_window_that_has_slid_cannot(self, count):
        kept = filled(list(range(count)), "gemma2", sliding_window=6)
        assert not can_crop(kept.cache)
        assert pool(kept).take([*range(count - 1), 99]) is None

    def test_a_window_at_its_limit_can(self):
        kept = filled(list(range(5)), "gemma2", sliding_window=6)
        entry = pool(kept).take([0, 1, 2, 99])
        assert held(entry.cache) == [[0, 1, 2]] * 2

    def test_a_recorded_window_can(self):
        cache = empty("gemma2", sliding_window=6)
        set_recording(cache, on=True)
        read(read(cache, list(range(10))), [50, 51])
        assert can_crop(cache)
        assert crop(cache, 2)
        assert [layer[-5:] for layer in held(cache)] == [[5, 6, 7, 8, 9]] * 2
        set_recording(cache, on=False)
        assert not can_crop(cache)

    def test_a_recurrent_state_cannot(self):
        assert not can_crop(recurrent([1, 2, 3]).cache)
        assert not crop(recurrent([1, 2, 3]).cache, 1)

    @pytest.mark.parametrize(
        "kept",
        [lambda ids: recurrent(ids), lambda ids: filled(ids, "gemma2", sliding_window=6)],
        ids=["recurrent", "slid"],
    )
    def test_it_is_read_again_with_one_warning_and_kept_for_its_own_text(self, kept, caplog):
        conversation = list(range(10))
        full = pool(kept(conversation))
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert full.take([*conversation[:-1], 99]) is None
        [message] = [r.getMessage() for r in caplog.records]
        assert "tiny keeps a state that cannot be rolled back" in message
        assert full.take([*conversation, 99]).ids == conversation

    def test_there_is_no_warning_where_nothing_has_to_be_cut(self, caplog):
        full = pool(recurrent([1, 2, 3]))
        with caplog.at_level(logging.WARNING):
            assert full.take([1, 2, 3, 4]) is not None
            assert full.take([7, 8]) is None
        assert not caplog.records

    def test_another_one_is_taken_instead(self):
        # A shorter one that fits is better than a longer one that cannot be cut.
        shorter = recurrent([1, 2])
        assert pool(recurrent([1, 2, 3, 4]), shorter).take([1, 2, 3, 9]) is shorter


LENGTHS = [[3, 3], [2, 5, 1], [4, 9, 12], [11, 20], [1, 30, 7, 15]]


class TestBatches:
    @pytest.mark.parametrize("lengths", LENGTHS)
    @pytest.mark.parametrize("window", [None, 5, 8, 50])
    def test_taken_apart_every_row_is_what_it_was(self, lengths, window):
        def new() -> DynamicCache:
            return empty() if window is None else empty("gemma3", sliding_window=window)

        rows = [[100 * row + n for n in range(length)] for row, length in enumerate(lengths)]
        alone = [read(new(), ids) for ids in rows]
        apart = split(merge([read(new(), ids) for ids in rows], lengths, new), lengths, new)
        assert [held(cache) for cache in apart] == [held(cache) for cache in alone]
        for before, after in zip(alone, apart, strict=True):
            for one, other in zip(before.layers, after.layers, strict=True):
                assert type(one) is type(other)
                assert other.get_seq_length() == one.get_seq_length()
                assert other.get_mask_sizes(1) == one.get_mask_sizes(1)

    @pytest.mark.parametrize("lengths", LENGTHS)
    @pytest.mark.parametrize("window", [None, 5, 8, 50])
    def test_what_is_read_together_is_what_each_would_have_read(self, lengths, window):
        def new() -> DynamicCache:
            return empty() if window is None else empty("gemma3", sliding_window=window)

        rows = [[100 * row + n for n in range(length)] for row, length in enumerate(lengths)]
        together = merge([read(new(), ids) for ids in rows], lengths, new)
        for turn in range(7):
            states = torch.tensor([1000.0 * row + turn for row in range(len(rows))])
            states = states[:, None, None, None].expand(-1, 2, 1, 8)
            for layer in range(len(together.layers)):
                together.update(states + layer / 10, -states, layer)
        now = [length + 7 for length in lengths]
        expected = [
            read(new(), ids + [1000 * row + turn for turn in range(7)])
            for row, ids in enumerate(rows)
        ]
        apart = split(together, now, new)
        for after, alone in zip(apart, expected, strict=True):
            for one, other, layer in zip(held(after), held(alone), alone.layers, strict=True):
                if window is not None and layer.is_sliding:
                    # A shorter row lost what slid out with the longest one: it never needs it.
                    other = other[len(other) - len(one) :]
                    assert len(one) >= min(layer.get_seq_length(), window - 1)
                assert one == other

    def test_rows_have_memory_of_their_own(self):
        together = merge([filled([1, 2]).cache, filled([3] * 50).cache], [2, 50], empty)
        first, _ = split(together, [2, 50], empty)
        assert size(first) == 2 * TOKEN

    def test_padding_is_in_front(self):
        together = merge([filled([1, 2]).cache, filled([3, 4, 5, 6]).cache], [2, 4], empty)
        assert together.layers[0].keys[0, 0, :, 0].tolist() == [0, 0, 1, 2]

    def test_recurrent_and_empty_caches_are_computed_alone(self):
        assert is_mergeable(filled([1, 2]).cache)
        assert is_mergeable(filled([1, 2], "gemma2").cache)
        assert not is_mergeable(empty())
        assert not is_mergeable(recurrent([1, 2]).cache)
