"""The messages of both sides: what is written is read again, and what is wrong is named."""

import base64
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibit import wire

MESSAGES = [
    wire.RegisterRequest,
    wire.RegisterAnswer,
    wire.PeersAnswer,
    wire.ErrorAnswer,
    wire.BlockRequest,
    wire.BlockAnswer,
    wire.BlockRefusal,
    wire.HaveBlocksInfo,
    wire.HaveBlocksAnswer,
    wire.AnnounceBlock,
    wire.AnnounceAnswer,
    wire.OfferTurn,
    wire.OfferAnswer,
]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
peer_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
ports = st.integers(1, 65535)
indices = st.integers(0, 2**40)
index_lists = st.lists(indices, max_size=8)
seconds = st.floats(0, 1e6, exclude_min=True)
entries = st.builds(
    wire.PeerEntry, peer_id=peer_ids, ip=texts, port=ports, blocks_owned=index_lists, seed=st.booleans()
)
FIELDS = {
    "peer_id": peer_ids,
    "sender_id": peer_ids,
    "listen_port": ports,
    "info_hash": st.none() | st.text("0123456789abcdef", min_size=40, max_size=40),
    "blocks_owned": st.none() | index_lists,
    "event": st.none() | st.sampled_from(["started", "completed", "stopped"]),
    "numwant": st.none() | st.integers(0, wire.NUMWANT_MAX),
    "ip": st.none() | texts,
    "initial_blocks": index_lists,
    "peers": st.lists(entries, max_size=3),
    "interval_s": seconds,
    "message": texts,
    "block_index": indices,
    "block_indices": index_lists,
    "block_data": st.binary(max_size=50),
    "retry_after_s": seconds,
    "blocks_info": st.lists(st.booleans(), max_size=20),
    "suggest": st.none() | indices,
    "rate_bytes_per_s": st.none() | seconds,
}
MINIMAL = {
    wire.RegisterRequest: {"peer_id": "p", "listen_port": 50000},
    wire.BlockRequest: {"block_index": 0, "sender_id": "p"},
    wire.HaveBlocksInfo: {"blocks_info": [True], "sender_id": "p"},
    wire.AnnounceBlock: {"block_index": 0, "sender_id": "p"},
    wire.OfferTurn: {"sender_id": "p", "listen_port": 1},
}


def messages(kind):
    """Return a strategy of messages of this type, with every field that has an interesting range drawn."""
    names = [field.name for field in msgspec.structs.fields(kind)]
    return st.builds(kind, **{name: FIELDS[name] for name in names if name in FIELDS})


@pytest.mark.parametrize("kind", MESSAGES)
@settings(max_examples=25)
@given(st.data())
def test_every_message_survives_the_wire(kind, data):
    """What one peer writes is exactly what the other reads, whatever the text, the numbers and the bytes."""
    message = data.draw(messages(kind))
    assert wire.decoder(kind).decode(wire.encode(message)) == message


@pytest.mark.parametrize("kind", MESSAGES)
@settings(max_examples=25)
@given(st.data())
def test_every_message_is_a_json_object_with_the_specifications_names(kind, data):
    """A client in another language reads it with any JSON library and finds the names of the specification."""
    message = data.draw(messages(kind))
    assert set(json.loads(wire.encode(message))) <= {field.name for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize("kind", MINIMAL)
def test_the_specifications_fields_alone_are_enough(kind):
    """A client that speaks only the specification leaves every field out that MiniBit added."""
    message = wire.decoder(kind).decode(json.dumps(MINIMAL[kind]))
    assert json.loads(wire.encode(message)) == MINIMAL[kind]


@pytest.mark.parametrize("kind", MINIMAL)
def test_unknown_fields_are_ignored(kind):
    """A newer peer may send more; refusing it would split the swarm at every release."""
    message = wire.decoder(kind).decode(json.dumps({**MINIMAL[kind], "colour": "blue"}))
    assert json.loads(wire.encode(message)) == MINIMAL[kind]


@pytest.mark.parametrize("kind", MINIMAL)
def test_a_missing_field_is_named(kind):
    """The text of the error goes to the sender as it is, and must say what was forgotten."""
    for name in MINIMAL[kind]:
        rest = {key: value for key, value in MINIMAL[kind].items() if key != name}
        with pytest.raises(msgspec.ValidationError, match=f"missing required field `{name}`"):
            wire.decoder(kind).decode(json.dumps(rest))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (wire.RegisterRequest, "listen_port", 0),
        (wire.RegisterRequest, "listen_port", 65536),
        (wire.RegisterRequest, "listen_port", "50000"),
        (wire.RegisterRequest, "listen_port", 80.5),
        (wire.RegisterRequest, "listen_port", True),
        (wire.RegisterRequest, "peer_id", ""),
        (wire.RegisterRequest, "peer_id", "x" * 201),
        (wire.RegisterRequest, "peer_id", None),
        (wire.RegisterRequest, "info_hash", "abc"),
        (wire.RegisterRequest, "info_hash", "A" * 40),
        (wire.RegisterRequest, "blocks_owned", [0, -1]),
        (wire.RegisterRequest, "blocks_owned", "0,1"),
        (wire.RegisterRequest, "numwant", wire.NUMWANT_MAX + 1),
        (wire.BlockRequest, "block_index", -1),
        (wire.BlockRequest, "block_index", "7"),
        (wire.BlockRequest, "block_index", None),
        (wire.BlockRequest, "sender_id", 7),
        (wire.BlockRequest, "block_indices", [-1]),
        (wire.HaveBlocksInfo, "blocks_info", [0, 1]),
        (wire.HaveBlocksInfo, "blocks_info", {"0": True}),
        (wire.AnnounceBlock, "block_index", 1.5),
        (wire.OfferTurn, "suggest", -1),
        (wire.OfferTurn, "rate_bytes_per_s", "fast"),
    ],
)
def test_a_wrong_value_is_refused_and_its_place_named(kind, field, value):
    """Every byte of these messages comes from strangers; what passes here reaches the policy unchecked."""
    with pytest.raises(msgspec.ValidationError, match=rf"at `\$\.{field}"):
        wire.decoder(kind).decode(json.dumps({**MINIMAL[kind], field: value}))


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b"{} trailing", b"7"])
@pytest.mark.parametrize("kind", MINIMAL)
def test_what_is_no_json_object_is_refused(kind, body):
    """Garbage must end in the one exception that the routes answer with 400."""
    with pytest.raises(msgspec.DecodeError):
        wire.decoder(kind).decode(body)


def test_a_block_answer_is_the_specifications():
    """A client that knows only the specification looks for these four names, and for base64."""
    answer = json.loads(wire.encode(wire.BlockAnswer(3, b"\x00\xff", "p")))
    data = base64.b64encode(b"\x00\xff").decode()
    assert answer == {"type": "SEND_BLOCK", "block_index": 3, "block_data": data, "sender_id": "p"}


def test_a_refusal_says_that_it_is_an_error():
    """The specification tells an answer from a refusal by its type."""
    answer = json.loads(wire.encode(wire.BlockRefusal("you are choked", "p")))
    assert (answer["type"], answer["message"], answer["sender_id"]) == ("ERROR", "you are choked", "p")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (wire.RegisterAnswer([], [], 30.0), "success"),
        (wire.PeersAnswer([]), "success"),
        (wire.HaveBlocksAnswer([], unchoked=False, retry_after_s=0.0), "success"),
        (wire.AnnounceAnswer(), "success"),
        (wire.OfferAnswer(accepted=True), "success"),
        (wire.ErrorAnswer("no"), "error"),
    ],
)
def test_every_other_answer_carries_its_status(message, status):
    """The specification's clients read ``status`` before anything else, so it may never be left out as a default."""
    assert json.loads(wire.encode(message))["status"] == status


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("0123456789abcdef0123456789abcdef01234567", True),
        ("0" * 39, False),
        ("0" * 41, False),
        ("A" * 40, False),
        ("g" * 40, False),
        ("0" * 40 + "\n", False),
        ("", False),
    ],
)
def test_an_info_hash_is_forty_lower_case_digits(text, is_one):
    """Two spellings of one hash would be two swarms that never meet."""
    assert wire.is_info_hash(text) is is_one
