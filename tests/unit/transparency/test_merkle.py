"""Trees and proofs, against pymerkle, which was written by others, and against what must not pass."""

import hashlib

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.transparency import merkle

RECORDS = [b"record %d" % number for number in range(600)]
LEAVES = [merkle.leaf_hash(record) for record in RECORDS]
TREES = merkle.LeafHashes(LEAVES)


@pytest.fixture(scope="module")
def others():
    return pymerkle.InmemoryTree.init_from_entries(RECORDS)


sizes = st.integers(1, len(RECORDS))


def test_an_empty_log_has_the_hash_of_nothing():
    assert merkle.Frontier().root() == merkle.root_at(TREES, 0) == hashlib.sha256(b"").digest()


@given(size=sizes)
def test_the_root_is_what_another_implementation_says(others, size):
    root = others.get_root(size)
    assert merkle.root_of(LEAVES[:size]) == root
    assert merkle.root_at(TREES, size) == root


@given(size=sizes, more=st.integers(0, 100))
def test_a_frontier_goes_on_from_its_nodes(size, more):
    nodes = [TREES.subtree(level, index) for level, index in merkle.complete_parts(size)]
    frontier = merkle.Frontier(size, nodes)
    for leaf in LEAVES[size : size + more]:
        frontier.append(leaf)
    assert frontier.root() == merkle.root_of(LEAVES[: size + more])


@given(data=st.data(), size=sizes)
def test_inclusion_proofs_are_those_of_another_implementation(others, data, size):
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(TREES, index, size)
    theirs = others.prove_inclusion(index + 1, size)
    assert proof == theirs.path[1:]
    theirs.path[1:] = proof
    pymerkle.verify_inclusion(LEAVES[index], merkle.root_at(TREES, size), theirs, index=index + 1, size=size)
    assert merkle.verify_inclusion(LEAVES[index], index, size, proof, others.get_root(size))


@given(data=st.data(), second=sizes)
def test_consistency_proofs_hold_between_the_roots_of_another_implementation(others, data, second):
    first = data.draw(st.integers(1, second))
    proof = merkle.consistency_proof(TREES, first, second)
    assert merkle.verify_consistency(first, second, proof, others.get_root(first), others.get_root(second))
    ours = merkle.root_at(TREES, first), merkle.root_at(TREES, second)
    pymerkle.verify_consistency(*ours, others.prove_consistency(first, second), prior_size=first, later_size=second)


def test_the_proofs_of_the_standards_own_example():
    """RFC 9162 section 2.1.5: seven leaves, and which nodes prove what."""
    a, b, c, d, e, f, j = LEAVES[:7]
    g, h, i = merkle.node_hash(a, b), merkle.node_hash(c, d), merkle.node_hash(e, f)
    k, other = merkle.node_hash(g, h), merkle.node_hash(i, j)
    assert merkle.inclusion_proof(TREES, 0, 7) == [b, h, other]
    assert merkle.inclusion_proof(TREES, 3, 7) == [c, g, other]
    assert merkle.inclusion_proof(TREES, 4, 7) == [f, j, k]
    assert merkle.inclusion_proof(TREES, 6, 7) == [i, k]
    assert merkle.consistency_proof(TREES, 3, 7) == [c, d, g, other]
    assert merkle.consistency_proof(TREES, 4, 7) == [other]
    assert merkle.consistency_proof(TREES, 6, 7) == [i, j, k]


@given(data=st.data(), size=st.integers(2, 300))
def test_a_proof_of_inclusion_fits_one_leaf_in_one_place_of_one_tree(data, size):
    index = data.draw(st.integers(0, size - 1))
    proof, root = merkle.inclusion_proof(TREES, index, size), merkle.root_at(TREES, size)
    other = data.draw(st.integers(0, size - 1).filter(lambda one: one != index))
    assert not merkle.verify_inclusion(LEAVES[other], index, size, proof, root)
    assert not merkle.verify_inclusion(LEAVES[index], other, size, proof, root)
    assert not merkle.verify_inclusion(LEAVES[index], index, size, proof, merkle.root_at(TREES, size + 1))
    assert not merkle.verify_inclusion(LEAVES[index], index, size, [*proof, LEAVES[0]], root)
    assert not merkle.verify_inclusion(LEAVES[index], index, size, proof[:-1], root)
    assert not merkle.verify_inclusion(LEAVES[index], size, size, proof, root)


@given(data=st.data(), second=st.integers(2, 300))
def test_a_proof_of_consistency_shows_a_tree_that_was_rewritten(data, second):
    first = data.draw(st.integers(1, second - 1))
    changed = data.draw(st.integers(0, first - 1))
    leaves = LEAVES[:second]
    leaves[changed] = merkle.leaf_hash(b"another")
    rewritten = merkle.LeafHashes(leaves)
    proof = merkle.consistency_proof(rewritten, first, second)
    honest, false = merkle.root_at(TREES, first), merkle.root_at(rewritten, second)
    assert not merkle.verify_consistency(first, second, proof, honest, false)
    honest_proof = merkle.consistency_proof(TREES, first, second)
    assert not merkle.verify_consistency(first, second, honest_proof, honest, false)
    assert not merkle.verify_consistency(first, second, [], honest, merkle.root_at(TREES, second))
    assert not merkle.verify_consistency(second, first, honest_proof, honest, merkle.root_at(TREES, second))


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0)])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index, size):
    with pytest.raises(IndexError):
        merkle.inclusion_proof(TREES, index, size)


@pytest.mark.parametrize(("first", "second"), [(0, 5), (6, 5)])
def test_there_is_no_proof_between_sizes_that_do_not_follow(first, second):
    with pytest.raises(IndexError):
        merkle.consistency_proof(TREES, first, second)
