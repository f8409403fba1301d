"""What a hostile client may send, and that the server neither falls, nor swells, nor obeys."""

import pickle
import random
import struct
import tracemalloc
import zlib

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from artimuse.artimuse_core import safe_pickle, server
from artimuse.artimuse_core.gatekeeper import Limits
from artimuse.artimuse_core.reward import Reward

from .fakes import brightness_scorer
from .serving import b64, grey_file, serving

# --- pickles ---


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_in_every_protocol(protocol: int) -> None:
    data = {
        "prompts": ["a", "ä"],
        "n": [1, -2.5, 10**30, True, None],
        "t": (1, (2,)),
        "e": {},
        "l": [[]],
    }
    assert safe_pickle.loads(pickle.dumps(data, protocol)) == data


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_bytes_are_read_from_protocol_3_on(protocol: int) -> None:
    data = {"images": [b"\x89PNG", b""] * 300}
    assert safe_pickle.loads(pickle.dumps(data, protocol)) == data


class Reduces:
    def __init__(self, *reduction) -> None:
        self.reduction = reduction

    def __reduce__(self):
        return self.reduction


def memo_index(index: int) -> bytes:
    return b"\x80\x04Nr" + struct.pack("<I", index) + b"."


ATTACKS = {
    "os.system": pickle.dumps(Reduces(eval, ("1",)), 4),
    "global of protocol 0": b"cos\nsystem\n(S'true'\ntR.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "inst": b"(S'true'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'true'\no.",
    "build": b"\x80\x04}}b.",
    "persistent id": b"Pid\n.",
    "binary persistent id": b"\x80\x04NQ.",
    "extension registry": b"\x80\x02\x82\x01.",
    "numpy's scalar": b"\x80\x04cnumpy\nfloat64\n.",
    "a memo of 4 billion slots": memo_index(0xFFFFFFF0),
    "a memo of 4 billion slots, as text": b"Np4294967280\n.",
    "bytes that claim a gigabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 30) + b"x.",
    "text that claims 2^62": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "a bytearray that claims a gigabyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 30) + b"x.",
    "a negative length": b"\x80\x03T" + struct.pack("<i", -1) + b".",
    "a million empty lists": b"\x80\x04" + b"]0" * 1_000_000 + b"N.",
    "tuples nested too deep to hash": b"\x80\x04}N" + b"\x85" * 90_000 + b"Ns.",
    "an unhashable key": b"\x80\x04}]Ns.",
    "endless digits": b"L" + b"9" * 50_000 + b"L\n.",
    "no stop": b"\x80\x04N",
    "pop of nothing": b"0.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_pickles_that_are_more_than_data_are_refused_cheaply(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(safe_pickle.PickleError) as refusal:
            safe_pickle.loads(ATTACKS[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value)
    assert peak < 40 << 20


def test_the_unpickler_itself_imports_nothing() -> None:
    import io

    with pytest.raises(safe_pickle.PickleError, match=r"os\.system"):
        safe_pickle._NoGlobals(io.BytesIO(b"cos\nsystem\n.")).load()


def test_random_bytes_and_mutations_never_escape_the_one_error() -> None:
    generator = random.Random(0)
    seed = pickle.dumps({"images": [b"abc"], "n": (1, 2.5, "x")})
    for _ in range(3000):
        if generator.random() < 0.5:
            data = generator.randbytes(generator.randrange(60))
        else:
            changed = bytearray(seed)
            for _ in range(generator.randrange(1, 4)):
                changed[generator.randrange(len(changed))] = generator.randrange(256)
            data = bytes(changed)
        try:
            safe_pickle.loads(data)
        except safe_pickle.PickleError as error:
            assert "\n" not in str(error)


# --- the whole server ---


@pytest.fixture(scope="module")
def url():
    limits = Limits(max_body_bytes=2_000_000)
    scorer = brightness_scorer()
    scorer.max_pixels = 16_000_000
    with serving(Reward(scorer, output="numpy"), limits=limits, allow_pickle=True) as address:
        yield address
        # Whatever the tests of this module sent: it still answers rightly.
        answer = httpx.post(f"{address}/compute", json={"image": [b64(grey_file(40))]})
        assert answer.json()["rewards"] == pytest.approx([40], abs=0.5)


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_pickles_are_answered_with_400(url, name: str) -> None:
    response = httpx.post(url, content=ATTACKS[name])
    assert response.status_code in (400, 413), name


def test_random_bytes_on_every_path(url) -> None:
    generator = random.Random(1)
    with httpx.Client() as http:
        for path in ("/", "/compute", "/score"):
            for _ in range(20):
                data = generator.randbytes(generator.randrange(400))
                headers = {"Content-Type": generator.choice(["application/json", "text/plain"])}
                assert 400 <= http.post(url + path, content=data, headers=headers).status_code < 500


def zip_bomb(side: int) -> bytes:
    """A valid PNG of side × side black pixels: small on the wire, 3·side² bytes decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes(1 + 3 * side)) for _ in range(side)]
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"".join(rows) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_refused_by_its_header(url) -> None:
    bomb = zip_bomb(4_100)  # 16.8 MP, 50 MB decoded, in 50 KB
    assert len(bomb) < 100_000
    tracemalloc.start()
    answer = httpx.post(f"{url}/compute", json={"image": [b64(bomb), b64(grey_file(10))]}).json()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer["rewards"] == pytest.approx([float("nan"), 10], abs=0.5, nan_ok=True)
    assert "over the limit" in answer["errors"][0]
    assert peak < 40 << 20


def test_a_compressed_body_is_not_unpacked(url) -> None:
    body = zlib.compress(bytes(1_000_000_000 // 50))
    headers = {"Content-Encoding": "deflate", "Content-Type": "application/json"}
    assert httpx.post(f"{url}/compute", content=body, headers=headers).status_code == 400


schema = schemathesis.openapi.from_asgi(
    "/openapi.json", server.create_app(Reward(brightness_scorer(), output="numpy"))
)


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_the_schema_allows_is_answered_as_it_says(case) -> None:
    # A schema cannot say that there are as many prompts as images; the server does.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])
