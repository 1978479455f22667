"""The layout of prompts and answers."""

from __future__ import annotations

import numpy as np
import pytest

from emoverse.inference.engine import AnswerTree, left_padded, prompt_mask, tree_mask


def test_left_padding_ends_all_prompts_together():
    ids, lengths = left_padded([np.array([1, 2, 3]), np.array([4])], pad=0)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert lengths.tolist() == [3, 1]


def test_positions_count_from_the_prompts_own_start():
    _, positions = prompt_mask(np.array([3, 1]), 3)
    assert positions.tolist() == [[0, 1, 2], [0, 0, 0]]


def test_no_token_sees_padding_and_padding_sees_itself():
    mask, _ = prompt_mask(np.array([1]), 3)
    assert mask[0, 0].tolist() == [[True, False, False], [False, True, False], [False, False, True]]


def test_an_answer_sees_the_prompt_and_itself_but_no_other_answer():
    tree = AnswerTree([[7, 8, 9], [5, 6], [4]])
    assert tree.inputs.tolist() == [7, 8, 5]
    mask, positions = tree_mask(np.array([2]), 2, tree)
    assert mask[0, 0, 2:].astype(int).tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert positions[0].tolist() == [0, 1, 2, 3, 2]


def test_each_token_is_predicted_from_the_one_before_it():
    tree = AnswerTree([[7, 8, 9], [5, 6], [4]])
    assert tree.tokens.tolist() == [7, 8, 9, 5, 6, 4]
    assert tree.columns.tolist() == [0, 1, 2, 0, 3, 0]
    assert tree.sums(np.arange(6.0)[None]).tolist() == [[3.0, 7.0, 5.0]]


def test_the_greedy_answer_is_taken_and_the_likeliest_where_there_is_none():
    tree = AnswerTree([[7, 8, 2], [7, 6, 2], [5, 2]])
    sums = np.tile([-1.0, -2.0, -3.0], (4, 1))
    # columns: after the prompt; after 7, 8 of the first; after 7, 6 of the second; after 5
    likeliest = np.array([[7, 6, 0, 6, 3, 0], [7, 6, 0, 6, 0, 0], [5, 0, 0, 0, 0, 2], [9, 8, 2, 6, 2, 2]])
    assert tree.choose(sums, likeliest, stop=(2, 3)).tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize("answers", [[], [[1], []]])
def test_an_answer_without_tokens_is_our_mistake(answers):
    with pytest.raises(ValueError, match="at least one token"):
        AnswerTree(answers)
