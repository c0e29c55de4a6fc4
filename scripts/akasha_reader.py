#!/usr/bin/env python3
"""Reads an akasha vault without akasha: an independent implementation of docs/FORMAT.md.

    akasha_reader.py ls VAULT
    akasha_reader.py cat VAULT PATH
    akasha_reader.py export VAULT DIR

The password comes from --password-file, or is the first line of standard input. Needs Python 3.11, `cryptography`
and `argon2-cffi` (scripts/setup reader). Everything that is shown was authenticated. It changes nothing in the vault.

Exit codes: 0 done, 1 something is damaged (each object is named on standard error, the rest is still read), 2 wrong usage,
3 wrong password, 4 this Python cannot do the vault's cipher, 5 no vault, or one that this reader cannot read.
"""

from __future__ import annotations

import argparse
import base64
import errno
import fcntl
import hashlib
import hmac
import os
import re
import stat
import struct
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field

try:
    from argon2.low_level import Type, hash_secret_raw
    from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.ciphers import aead
except ImportError as missing:
    sys.exit(f"akasha_reader: {missing}; it needs the packages cryptography and argon2-cffi")

EXIT_DAMAGED, EXIT_PASSWORD, EXIT_CIPHER, EXIT_NO_VAULT = 1, 3, 4, 5

HEADER_LEN, TAIL_LEN, TAG_LEN, PAGE_LEN = 64, 256, 16, 65_520
FRAME = HEADER_LEN + TAIL_LEN
DOMAIN_SLOT, DOMAIN_MAP, DOMAIN_TAIL, DOMAIN_BODY = 1, 2, 3, 5
SIMPLE, MAPPED = 1, 2
ROLE_VERSION, ROLES = 1, (1, 2, 3)
FILE, DIRECTORY, SYMLINK, FIFO, DEVICES = 1, 2, 3, 4, (6, 7)
KINDS = {1: "file", 2: "dir", 3: "symlink", 4: "fifo", 5: "socket", 6: "char", 7: "block"}
OWN, HOLE, UNWRITTEN = 0, 0xFFFF_FFFF, 0xFFFF_FFFE
ROOT_ID = 1
CIPHERS = {"chacha20-poly1305": 1, "aes-256-gcm": 2, "aes-256-gcm-siv": 3}
MODE_ATTRIBUTE = b"akasha\0mode"
SIDE_ATTRIBUTE = b"akasha\0side"
SIDE_LEN_MAX = 1 << 20
RESCUE_NAME, RESCUE_LEN = b".dir", 464
CHUNK_BLOCKS = 64


class Damaged(Exception):
    """An object of the vault is not what the format says."""


class Refused(Exception):
    """The vault as a whole cannot be read."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


# --- primitives ---------------------------------------------------------------------------


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2.3."""
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        out, counter = out + block, counter + 1
    return out[:length]


def hkdf(salt: bytes, ikm: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869."""
    return hkdf_expand(hmac.digest(salt, ikm, "sha256"), info, length)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """draft-irtf-cfrg-xchacha-03, section 2.2: the first and last rows of the permuted state."""
    x = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for first, second, third, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[first] = (x[first] + x[second]) & 0xFFFF_FFFF
            mixed = x[third] ^ x[first]
            x[third] = ((mixed << turn) | (mixed >> (32 - turn))) & 0xFFFF_FFFF

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<8I", *x[:4], *x[12:])


def xchacha20_open(key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    """XChaCha20-Poly1305; raises InvalidTag."""
    cipher = aead.ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return cipher.decrypt(bytes(4) + nonce[16:], sealed, aad)


def content_cipher(name: str, key: bytes) -> aead.ChaCha20Poly1305 | aead.AESGCM | aead.AESGCMSIV:
    """The vault's AEAD under an object's key."""
    if name == "chacha20-poly1305":
        return aead.ChaCha20Poly1305(key)
    if name == "aes-256-gcm":
        return aead.AESGCM(key)
    try:
        return aead.AESGCMSIV(key)
    except (AttributeError, UnsupportedAlgorithm) as error:
        why = "this Python's cryptography has no AES-GCM-SIV (it needs OpenSSL 3.2 or newer)"
        raise Refused(EXIT_CIPHER, why) from error


def base64url(text: bytes) -> bytes:
    """Canonical base64url without padding."""
    try:
        plain = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise Damaged("its name is no base64url") from error
    if to_base64url(plain) != text:
        raise Damaged("its name is no canonical base64url")
    return plain


def to_base64url(plain: bytes) -> bytes:
    return base64.urlsafe_b64encode(plain).rstrip(b"=")


def zero(data: bytes) -> bool:
    return not any(data)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def valid_id(number: int) -> bool:
    return 0 < number < 1 << 63


def valid_name(name: bytes) -> bool:
    return 1 <= len(name) <= 255 and not set(name) & {0, 0x2F} and name not in (b".", b"..")


def is_int(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


# --- vault.toml ---------------------------------------------------------------------------

TOP_FIELDS = {
    "format": int, "min_reader": int, "vault_id": str, "serial": int, "previous_seal": str, "created": int,
    "cipher": str, "block_size": int, "epoch": int, "epoch_min": int, "keyring": list, "incompat": list,
    "ro_compat": list, "compat": list, "placement": str, "slot": list,
}  # fmt: skip
SLOT_FIELDS = {
    "id": int, "kind": str, "label": str, "kdf": str, "memory_kib": int, "passes": int, "lanes": int,
    "salt": str, "nonce": str, "commitment": str, "wrapped": str, "opaque": str,
}  # fmt: skip


@dataclass
class Keys:
    """A vault's parameters, verified, and what is derived from its master key."""

    cipher: str
    block_len: int
    epoch: int
    content: bytes
    names: aead.AESSIV
    xattr_names: aead.AESSIV
    xattr_values: bytes
    dirs: bytes

    @property
    def slot_len(self) -> int:
        return self.block_len + TAG_LEN


def unhex(text: object, length: int, what: str) -> bytes:
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", text):
        raise Refused(EXIT_NO_VAULT, f"vault.toml: {what} is not {length} bytes in hex")
    return bytes.fromhex(text)


def check_fields(table: object, fields: dict[str, type], what: str) -> dict:
    """Exactly these fields, of these types."""
    if not isinstance(table, dict) or table.keys() != fields.keys():
        raise Refused(EXIT_NO_VAULT, f"vault.toml: {what} has other fields than it should")
    for name, kind in fields.items():
        if not isinstance(table[name], kind) or isinstance(table[name], bool):
            raise Refused(EXIT_NO_VAULT, f"vault.toml: {name} of {what} is no {kind.__name__}")
    return table


def parse_config(data: bytes) -> tuple[dict, bytes, bytes]:
    """The fields, the bytes under the seal, the seal. Nothing is verified yet."""
    if not 0 < len(data) <= 65_536:
        raise Refused(EXIT_NO_VAULT, "vault.toml has an impossible length")
    cut = data[:-1].rfind(b"\n") + 1
    body = data[:cut]
    seal = re.fullmatch(rb'seal = "([0-9a-f]{64})"\n', data[cut:])
    if seal is None or not body:
        raise Refused(EXIT_NO_VAULT, "vault.toml does not end with its seal")
    try:
        config = tomllib.loads(body.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Refused(EXIT_NO_VAULT, f"vault.toml: {error}") from error
    if config.get("format") != 1 or not is_int(config.get("min_reader"), 0, 1):
        raise Refused(EXIT_NO_VAULT, f"the vault has format {config.get('format')!r}; this reader knows 1")
    check_fields(config, TOP_FIELDS, "the file")
    newer = config["incompat"] or config["keyring"] or config["epoch"] or config["epoch_min"]
    if newer or config["placement"] != "loose" or config["cipher"] not in CIPHERS:
        raise Refused(EXIT_NO_VAULT, "the vault uses something that this reader does not know")
    if config["block_size"] not in (1 << log for log in range(12, 21)):
        raise Refused(EXIT_NO_VAULT, "vault.toml: an impossible block size")
    slots = config["slot"]
    if not 1 <= len(slots) <= 16:
        raise Refused(EXIT_NO_VAULT, "vault.toml: between 1 and 16 key slots")
    for slot in slots:
        check_slot(slot)
    if len({slot["id"] for slot in slots}) != len(slots):
        raise Refused(EXIT_NO_VAULT, "vault.toml: two slots with one id")
    return config, body, bytes.fromhex(seal[1].decode())


def check_slot(slot: object) -> None:
    table = check_fields(slot, SLOT_FIELDS, "a slot")
    costs = (("memory_kib", 19_456, 4_194_304), ("passes", 2, 64), ("lanes", 1, 64))
    if table["kdf"] != "argon2id" or not all(is_int(table[n], low, high) for n, low, high in costs):
        raise Refused(EXIT_NO_VAULT, "vault.toml: a key derivation out of bounds")
    if not is_int(table["id"], 0, 0xFFFF_FFFF):
        raise Refused(EXIT_NO_VAULT, "vault.toml: the id of a slot")
    if len(table["label"].encode()) > 255 or len(table["opaque"].encode()) > 1024:
        raise Refused(EXIT_NO_VAULT, "vault.toml: an oversized slot")


def slot_aad(slot: dict, vault_id: bytes) -> bytes:
    """Every other field of the slot, each with its length before it."""
    fields = [b"akasha slot", vault_id, struct.pack("<I", slot["id"])]
    fields += [slot[name].encode() for name in ("kind", "label", "kdf")]
    fields += [struct.pack("<I", slot[name]) for name in ("memory_kib", "passes", "lanes")]
    fields += [slot[name].encode() for name in ("salt", "nonce", "commitment", "opaque")]
    return b"".join(struct.pack("<I", len(part)) + part for part in fields)


def open_slot(slot: dict, vault_id: bytes, password: bytes) -> bytes | None:
    """The master key and what stands behind it; None if the slot is another password's."""
    cost = {"time_cost": slot["passes"], "memory_cost": slot["memory_kib"], "parallelism": slot["lanes"]}
    salt = unhex(slot["salt"], 32, "salt")
    hashed = hash_secret_raw(password, salt, hash_len=32, type=Type.ID, version=0x13, **cost)
    commitment = unhex(slot["commitment"], 32, "commitment")
    if not hmac.compare_digest(hkdf_expand(hashed, b"slot commit", 32), commitment):
        return None
    nonce, wrapped = unhex(slot["nonce"], 24, "nonce"), unhex(slot["wrapped"], 64, "wrapped")
    wrap = hkdf_expand(hashed, b"slot wrap", 32)
    try:
        return xchacha20_open(wrap, nonce, wrapped, slot_aad(slot, vault_id))
    except InvalidTag as error:
        raise Refused(EXIT_DAMAGED, "vault.toml: a key slot does not authenticate") from error


def unlock(data: bytes, password: bytes) -> Keys:
    """Opens a vault: FORMAT.md, "Opening, in this order"."""
    config, body, seal = parse_config(data)
    vault_id = unhex(config["vault_id"], 16, "vault_id")
    slots = (slot for slot in config["slot"] if slot["kind"] == "password")
    opened = next((plain for slot in slots if (plain := open_slot(slot, vault_id, password))), None)
    if opened is None:
        raise Refused(EXIT_PASSWORD, "wrong password")
    if opened[32:] != struct.pack("<I", config["epoch"]) + bytes(12):
        raise Refused(EXIT_DAMAGED, "vault.toml: a key slot of another epoch")

    def key(label: str, length: int = 32) -> bytes:
        return hkdf(vault_id, opened[:32], b"akasha v1 " + label.encode(), length)

    if not hmac.compare_digest(hmac.digest(key("config-seal"), body, "sha256"), seal):
        raise Refused(EXIT_DAMAGED, "vault.toml: its seal does not fit")
    return Keys(
        cipher=config["cipher"],
        block_len=config["block_size"],
        epoch=config["epoch"],
        content=key("content"),
        names=aead.AESSIV(key("names", 64)),
        xattr_names=aead.AESSIV(key("xattr-name", 64)),
        xattr_values=key("xattr-value"),
        dirs=key("dir"),
    )


# --- layers -------------------------------------------------------------------------------


@dataclass
class Extent:
    block: int
    count: int
    source: int
    slot: int

    @property
    def end(self) -> int:
        return self.block + self.count


@dataclass
class Parent:
    layer: bytes
    tag: bytes
    owner: int
    commit: int
    size: int
    epoch: int


@dataclass
class Piece:
    """Blocks of a file that lie one after the other in a layer; in none, they are zeros."""

    block: int
    count: int
    layer: Layer | None
    slot: int


def object_header(keys: Keys, kind: int, identity: bytes) -> bytes:
    """The header of an object: only the id is free."""
    log = keys.block_len.bit_length() - 1
    fixed = struct.pack("<8sHBBBBHII", b"akasha\r\n", 1, kind, CIPHERS[keys.cipher], log, 0, 0, keys.epoch, 0)
    return fixed + identity + bytes(8)


class Layer:
    """An open layer whose header, tail and map are verified."""

    def __init__(self, keys: Keys, fd: int, name: str) -> None:
        self.keys, self.fd, self.name = keys, fd, name
        self.length = os.fstat(fd).st_size
        if self.length < FRAME or self.length == FRAME + TAG_LEN:
            raise Damaged(f"{name}: no layer has {self.length} bytes")
        header = self.read(0, HEADER_LEN)
        self.id = header[24:56]
        if header != object_header(keys, 1, self.id):
            raise Damaged(f"{name}: its header is not that of a layer of this vault")
        self.cipher = content_cipher(keys.cipher, hkdf_expand(keys.content, b"object" + header, 32))
        sealed = self.read(self.length - TAIL_LEN, TAIL_LEN)
        self.tag = sealed[-TAG_LEN:]
        self.parse_tail(self.open(DOMAIN_TAIL, 0, sealed, "tail"))
        self.parents: list[Parent] = []
        self.extents = [Extent(0, self.slots, OWN, 0)] if self.slots else []
        if self.form == MAPPED:
            self.parse_map()

    def read(self, offset: int, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = os.pread(self.fd, length - len(data), offset + len(data))
            if not part:
                raise Damaged(f"{self.name}: shorter than it says")
            data += part
        return data

    def open(self, domain: int, index: int, sealed: bytes, what: str) -> bytes:
        nonce = bytes([domain, 0, 0, 0]) + u64(index)
        try:
            return self.cipher.decrypt(nonce, sealed, b"")
        except InvalidTag as error:
            raise Damaged(f"{self.name}: its {what} {index} does not authenticate") from error

    def blocks(self) -> int:
        return -(-self.size // self.keys.block_len)

    def parse_tail(self, plain: bytes) -> None:
        self.form, self.role, flags, self.last_len = struct.unpack_from("<BBHI", plain, 0)
        self.entry, self.commit, self.size, self.slots, self.map_len = struct.unpack_from("<5Q", plain, 8)
        self.pages, self.parent_count, self.home = struct.unpack_from("<IIQ", plain, 48)
        reserved = (plain[64:72], plain[96:136], plain[144:160], plain[172:240])
        sane = (
            flags == 0
            and all(map(zero, reserved))
            and self.form in (SIMPLE, MAPPED)
            and self.role in ROLES
            and valid_id(self.entry)
            and valid_id(self.home)
            and self.size < 1 << 63
            and self.slots <= 1 << 32
            and self.map_len <= 1 << 40
            and (1 <= self.last_len <= self.keys.block_len if self.slots else self.last_len == 0)
        )
        slots_len = (self.slots - 1) * self.keys.slot_len + self.last_len + TAG_LEN if self.slots else 0
        if not sane or self.length != FRAME + slots_len + self.map_len:
            raise Damaged(f"{self.name}: its tail says what no writer says")
        # With the exact length checked, these are the length classes of FORMAT.md.
        rest = (self.length - FRAME) % self.keys.slot_len
        if self.form == SIMPLE:
            last = (self.size - 1) % self.keys.block_len + 1 if self.size else 0
            agrees = (self.slots, self.last_len) == (self.blocks(), last)
            agrees = agrees and self.map_len == self.pages == self.parent_count == 0
        else:
            plain_len = self.map_len - TAG_LEN * self.pages
            agrees = rest == 8 and plain_len > 0 and -(-plain_len // PAGE_LEN) == self.pages
            agrees = agrees and self.last_len in (0, self.keys.block_len)
        if not agrees:
            raise Damaged(f"{self.name}: its form and its lengths disagree")

    def parse_map(self) -> None:
        at = self.length - TAIL_LEN - self.map_len
        plain = bytearray()
        for page in range(self.pages):
            done = page * (PAGE_LEN + TAG_LEN)
            sealed = self.read(at + done, min(PAGE_LEN + TAG_LEN, self.map_len - done))
            plain += self.open(DOMAIN_MAP, page, sealed, "map page")
        records = 96 * self.parent_count
        if records > len(plain):
            raise Damaged(f"{self.name}: more parents than its map holds")
        for offset in range(0, records, 96):
            parent = Parent(*struct.unpack_from("<32s16sQQQI", plain, offset))
            newer = self.parents[-1].commit if self.parents else self.commit
            known = {self.id, *(other.layer for other in self.parents)}
            sane = (parent.owner, parent.epoch) == (self.entry, self.keys.epoch) and parent.commit < newer
            if not sane or parent.layer in known or not zero(plain[offset + 76 : offset + 96]):
                raise Damaged(f"{self.name}: a parent that no writer names")
            self.parents.append(parent)
        self.extents = []
        while records + 32 <= len(plain) and not zero(plain[records : records + 32]):
            self.add_extent(*struct.unpack_from("<QQIIQ", plain, records))
            records += 32
        if not zero(plain[records:]):
            raise Damaged(f"{self.name}: something behind the map's end")

    def add_extent(self, block: int, count: int, source: int, flags: int, slot: int) -> None:
        extent = Extent(block, count, source, slot)
        sane = source in (OWN, HOLE, UNWRITTEN) and flags == 0 and count > 0 and extent.end <= self.blocks()
        sane = sane and (slot + count <= self.slots if source == OWN else slot == 0)
        if sane and self.extents:
            last = self.extents[-1]
            goes_on = last.source == source and (source != OWN or last.slot + last.count == slot)
            sane = last.end <= block and not (last.end == block and goes_on)
        if not sane:
            raise Damaged(f"{self.name}: an extent that no writer makes")
        self.extents.append(extent)

    def read_slots(self, slot: int, count: int) -> Iterator[bytes]:
        """The plaintext of slots, each filled up to a block with zeros."""
        block_len, slot_len = self.keys.block_len, self.keys.slot_len
        end = slot + count
        length = count * slot_len
        if end == self.slots:
            length -= block_len - self.last_len
        data = self.read(HEADER_LEN + slot * slot_len, length)
        for i in range(count):
            sealed = data[i * slot_len : (i + 1) * slot_len]
            yield self.open(DOMAIN_SLOT, slot + i, sealed, "slot").ljust(block_len, b"\0")


def assemble(layers: list[Layer]) -> list[Piece]:
    """The pieces of a file: `layers` is the top and its parents, newest first."""
    top = layers[0]
    # Merging a layer's extents one by one would be quadratic in maps of many extents: cut everything at every
    # border once, and let the newest layer have each part.
    borders = {0, top.blocks()}
    for layer in layers:
        for extent in layer.extents:
            borders.update((extent.block, extent.end))
    cuts = sorted(border for border in borders if border <= top.blocks())
    cursors = [0] * len(layers)
    pieces: list[Piece] = []
    for start, end in zip(cuts, cuts[1:]):
        for index, layer in enumerate(layers):
            while cursors[index] < len(layer.extents) and layer.extents[cursors[index]].end <= start:
                cursors[index] += 1
            if cursors[index] == len(layer.extents) or layer.extents[cursors[index]].block > start:
                continue
            extent = layer.extents[cursors[index]]
            holder = layer if extent.source == OWN else None
            pieces.append(Piece(start, end - start, holder, extent.slot + start - extent.block))
            break
        else:
            raise Damaged(f"{top.name}: its layers do not cover block {start}")
    return pieces


# --- the tree -----------------------------------------------------------------------------


@dataclass
class Entry:
    kind: int
    id: int
    # The file in .akasha/inodes, if this is one of its names; else 0.
    inode: int
    replaces: int
    rdev: int
    name: bytes
    backing: bytes
    shown: bytes = b""

    @property
    def file(self) -> int:
        """The id of what it shows."""
        return self.inode or self.id


@dataclass
class Listing:
    entries: list[Entry] = field(default_factory=list)
    damaged: list[tuple[bytes, str]] = field(default_factory=list)


def parse_entry(plain: bytes, backing: bytes) -> Entry:
    if len(plain) < 32 or len(plain) % 16:
        raise Damaged("a sealed entry of no length")
    version, kind, flags, entry, replaces = struct.unpack_from("<BBBQQ", plain)
    device, linked = kind in DEVICES, bool(flags & 2) and kind != DIRECTORY
    numbers = int(device) + int(linked)
    if len(plain) < 19 + 8 * numbers:
        raise Damaged("a sealed entry of no length")
    read = list(struct.unpack_from(f"<{numbers}Q", plain, 19))
    text = plain[19 + 8 * numbers :]
    name = text.rstrip(b"\0")
    inode = read.pop(0) if linked else 0
    rdev = read.pop(0) if device else 0
    sane = version == 1 and kind in KINDS and flags == int(device) + 2 * int(linked)
    sane = sane and (not linked or (valid_id(inode) and inode not in (ROOT_ID, entry)))
    sane = sane and valid_id(entry) and entry != ROOT_ID
    sane = sane and (replaces == 0 or valid_id(replaces)) and replaces not in (ROOT_ID, entry)
    sane = sane and name.endswith(b"\x80") and len(text) - len(name) < 16
    name = name[:-1]
    if not sane or not valid_name(name):
        raise Damaged("a sealed entry that no writer makes")
    return Entry(kind, entry, inode, replaces, rdev, name, backing)


def show(path: bytes) -> str:
    """A path for people: whatever could upset a terminal is escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def settle(entries: list[Entry], taken: set[bytes]) -> list[Entry]:
    """Who has which name: FORMAT.md, "What a directory shows"."""
    groups: dict[bytes, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.id):
        groups.setdefault(entry.name, []).append(entry)
    shown, conflicts = [], []
    for name, group in groups.items():
        replaced = {entry.replaces for entry in group}
        live = [entry for entry in group if entry.id not in replaced] or group
        live[0].shown = name
        shown.append(live[0])
        conflicts += live[1:]
    taken.update(entry.shown for entry in shown)
    for entry in sorted(conflicts, key=lambda entry: (entry.name, entry.id)):
        number = 0
        while not entry.shown or entry.shown in taken:
            mark = f" (conflict {entry.id & 0xFFFF_FFFF:08x})".encode() + (b"-%d" % number if number else b"")
            entry.shown = entry.name[: 255 - len(mark)] + mark
            number += 1
        taken.add(entry.shown)
        shown.append(entry)
    return sorted(shown, key=lambda entry: entry.shown)


class Vault:
    """An open vault. Everything is opened below its directory, and never through a symbolic link."""

    def __init__(self, path: str, password: bytes) -> None:
        try:
            self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            self.control = open_dir(self.root, b".akasha")
            config = open_file(self.control, b"vault.toml")
            self.older, self.inodes = self.subdir(b"layers"), self.subdir(b"inodes")
            self.sides = self.subdir(b"xattrs")
        except OSError as error:
            raise Refused(EXIT_NO_VAULT, f"{path}: not a vault: {error.strerror}") from error
        self.lock(path)
        with os.fdopen(config, "rb") as file:
            self.keys = unlock(file.read(65_537), password)
        content_cipher(self.keys.cipher, bytes(32))
        self.seen: dict[int, bytes] = {}
        self.named: set[int] = set()

    def subdir(self, name: bytes) -> int:
        try:
            return open_dir(self.control, name)
        except FileNotFoundError:
            # Backup tools drop empty directories: then there is nothing in it to be missed, or it is missed later.
            return self.control

    def lock(self, path: str) -> None:
        try:
            self.lock_fd = open_file(self.control, b"lock")
            fcntl.flock(self.lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(EXIT_NO_VAULT, f"{path}: somebody has it mounted") from error
        except OSError as error:
            print(f"akasha_reader: {path} cannot be locked: {error.strerror}", file=sys.stderr)
        if b"exchange" in os.listdir(os.fsencode(f"/proc/self/fd/{self.control}")):
            print("akasha_reader: two names are being exchanged; a mount finishes that", file=sys.stderr)

    def open_entry(self, directory: int, dir_fd: int, backing: bytes) -> Entry:
        sealed = backing
        if len(backing) == 44 and backing[:1] == b"L":
            fd = open_file(dir_fd, backing + b".name")
            with os.fdopen(fd, "rb") as file:
                sealed = file.read(4097)
            if not 256 <= len(sealed) <= 4096 or b"L" + to_base64url(hashlib.sha256(sealed).digest()) != backing:
                raise Damaged("its sidecar is another name's")
        if sealed[:1] != b"A":
            raise Damaged("not a name of this vault")
        text = base64url(sealed[1:])
        try:
            plain = self.keys.names.decrypt(text, [b"entry", u64(directory)])
        except (InvalidTag, ValueError) as error:
            raise Damaged("its name does not authenticate") from error
        return parse_entry(plain, backing)

    def list(self, directory: int, dir_fd: int) -> Listing:
        """What the directory shows, and what does not open."""
        listing, opened = Listing(), []
        for item in os.scandir(dir_fd):
            backing = os.fsencode(item.name)
            is_sidecar = len(backing) == 49 and backing[:1] == b"L" and backing.endswith(b".name")
            if backing in (b".akasha", b".akasha.new") or is_sidecar:
                continue
            try:
                if backing == RESCUE_NAME:
                    self.check_rescue(directory, dir_fd)
                    continue
                entry = self.open_entry(directory, dir_fd, backing)
                fits = item.is_dir(follow_symlinks=False) == (entry.kind == DIRECTORY)
                if not fits or not (entry.kind == DIRECTORY or item.is_file(follow_symlinks=False)):
                    raise Damaged("its object is of another kind than its name says")
                opened.append(entry)
            except Damaged as error:
                listing.damaged.append((backing, str(error)))
            except OSError as error:
                listing.damaged.append((backing, error.strerror))
        listing.entries = settle(opened, set())
        return listing

    def check_rescue(self, directory: int, dir_fd: int) -> None:
        """A rescue copy is not needed to read anything; it must be one of this directory."""
        with os.fdopen(open_file(dir_fd, RESCUE_NAME), "rb") as file:
            data = file.read(RESCUE_LEN + 1)
        if len(data) != RESCUE_LEN or data[:HEADER_LEN] != object_header(self.keys, 4, data[24:56]):
            raise Damaged("no rescue copy of this vault")
        header, sealed = data[:HEADER_LEN], data[HEADER_LEN:]
        cipher = content_cipher(self.keys.cipher, hkdf_expand(self.keys.dirs, b"object" + header, 32))
        try:
            plain = cipher.decrypt(bytes([DOMAIN_BODY]) + bytes(11), sealed, b"")
        except InvalidTag as error:
            raise Damaged("the rescue copy does not authenticate") from error
        entry, parent, epoch, flags, _stamp = struct.unpack_from("<QQIIQ", plain)
        name = plain[128:].rstrip(b"\0")
        fine = valid_id(entry) and valid_id(parent) and parent != entry and epoch == self.keys.epoch
        if not fine or flags or not zero(plain[32:128]) or name[-1:] != b"\x80" or not valid_name(name[:-1]):
            raise Damaged("a rescue copy that no writer makes")
        if entry != directory or directory == ROOT_ID:
            raise Damaged("the rescue copy of another directory")

    def see(self, entry: Entry, path: bytes) -> None:
        """An id has one place, and what has several names has none: the rest are copies that somebody put back."""
        if entry.inode:
            self.named.add(entry.inode)
        if entry.id in self.named or entry.inode in self.seen:
            raise Damaged("it is a file with one name and one with several")
        before = self.seen.setdefault(entry.id, path)
        if before != path:
            raise Damaged(f"it is also {show(before)}")

    def home(self, entry: Entry, dir_fd: int) -> tuple[int, bytes]:
        """The directory and the name of the top of what an entry shows."""
        return (self.inodes, b"%016x" % entry.inode) if entry.inode else (dir_fd, entry.backing)

    def layers(self, entry: Entry, dir_fd: int) -> list[Layer]:
        """The verified layers of a file, newest first. The caller closes their descriptors."""
        layers: list[Layer] = []
        try:
            top = self.open_layer(*self.home(entry, dir_fd), "its top", entry)
            layers.append(top)
            if top.role != ROLE_VERSION:
                raise Damaged("its top is no version of a file")
            for parent in top.parents:
                name = f"{parent.owner:016x}.{parent.layer.hex()}"
                layer = self.open_layer(self.older, name.encode(), f"its layer {name}", entry)
                layers.append(layer)
                said = (parent.layer, parent.tag, parent.commit, parent.size, parent.epoch)
                if said != (layer.id, layer.tag, layer.commit, layer.size, self.keys.epoch):
                    raise Damaged(f"{layer.name} is not what its top refers to")
            return layers
        except BaseException:
            close(layers)
            raise

    def open_layer(self, dir_fd: int, backing: bytes, name: str, entry: Entry) -> Layer:
        try:
            fd = open_file(dir_fd, backing)
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from error
        try:
            layer = Layer(self.keys, fd, name)
            if layer.entry != entry.file:
                raise Damaged(f"{name} holds another entry's content")
            return layer
        except BaseException:
            os.close(fd)
            raise

    def content(self, entry: Entry, dir_fd: int) -> Iterator[tuple[int, bytes]]:
        """(length of zeros, bytes) parts of a file, in order, each authenticated."""
        layers = self.layers(entry, dir_fd)
        try:
            size, block_len = layers[0].size, self.keys.block_len
            for piece in assemble(layers):
                left = min(piece.count * block_len, size - piece.block * block_len)
                if piece.layer is None:
                    yield left, b""
                    continue
                for first in range(0, piece.count, CHUNK_BLOCKS):
                    count = min(CHUNK_BLOCKS, piece.count - first)
                    data = b"".join(piece.layer.read_slots(piece.slot + first, count))[:left]
                    left -= len(data)
                    yield 0, data
        finally:
            close(layers)

    def internal(self, entry: Entry, fd: int, plain_name: bytes) -> bytes | None:
        """The value of an attribute that no mount shows; None if there is none."""
        padded = plain_name + b"\x80" + bytes(-(len(plain_name) + 1) % 16)
        name = to_base64url(self.keys.xattr_names.encrypt(padded, [b"xattr", u64(entry.file)]))
        try:
            value = os.getxattr(fd, b"user.akasha." + name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return None
            raise
        return xchacha20_open(self.keys.xattr_values, value[:24], value[24:], u64(entry.file) + plain_name)

    def mode(self, entry: Entry, fd: int) -> int:
        """Permission bits: of the backing object, unless a sealed attribute knows better."""
        bits = stat.S_IMODE(os.fstat(fd).st_mode)
        try:
            plain = self.internal(entry, fd, MODE_ATTRIBUTE)
            return bits if plain is None else struct.unpack("<I", plain)[0] & 0o7777
        except (OSError, InvalidTag, ValueError, struct.error):
            return bits

    def side(self, entry: Entry, reference: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All attributes of an entry that has a side object."""
        if len(reference) != 48:
            raise ValueError("not a reference to a side object")
        identity, tag = reference[:32], reference[32:]
        with os.fdopen(open_file(self.sides, b"%016x." % entry.file + identity.hex().encode()), "rb") as file:
            sealed = file.read(SIDE_LEN_MAX + 1)
        if len(sealed) > SIDE_LEN_MAX or sealed[-16:] != tag:
            raise ValueError("another side object than the one referred to")
        aad = u64(entry.file) + b"akasha\0attributes\0" + identity
        plain = xchacha20_open(self.keys.xattr_values, sealed[:24], sealed[24:], aad)
        while plain:
            name_len, value_len = struct.unpack_from("<HI", plain)
            end = 6 + name_len + value_len
            if len(plain) < end:
                raise ValueError("a side object ends inside a record")
            yield plain[6 : 6 + name_len], plain[6 + name_len : end]
            plain = plain[end:]

    def attributes(self, entry: Entry, fd: int) -> Iterator[tuple[bytes, bytes]]:
        """The extended attributes that open, but for the internal ones."""
        try:
            sealed_names = [os.fsencode(name) for name in os.listxattr(fd)]
        except OSError:
            return
        try:
            reference = self.internal(entry, fd, SIDE_ATTRIBUTE)
            if reference is not None:
                yield from self.side(entry, reference)
                return
        except (OSError, InvalidTag, ValueError, struct.error) as error:
            print(f"the attributes of entry {entry.file:016x} do not open: {error!r}", file=sys.stderr)
            return
        for sealed in sealed_names:
            try:
                text = sealed.removeprefix(b"user.akasha.")
                if text == sealed:
                    continue
                raw = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
                padded = self.keys.xattr_names.decrypt(raw, [b"xattr", u64(entry.file)]).rstrip(b"\0")
                name = padded.removesuffix(b"\x80")
                if name in (padded, MODE_ATTRIBUTE):
                    continue
                value = os.getxattr(fd, sealed)
                aad = u64(entry.file) + name
                yield name, xchacha20_open(self.keys.xattr_values, value[:24], value[24:], aad)
            except (OSError, InvalidTag, ValueError) as error:
                print(f"an attribute of entry {entry.file:016x} does not open: {error!r}", file=sys.stderr)


def open_dir(dir_fd: int, name: bytes) -> int:
    """A directory in a directory, never through a symbolic link."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)


def open_file(dir_fd: int, name: bytes) -> int:
    """A regular file in a directory, never through a symbolic link."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return fd


def close(layers: list[Layer]) -> None:
    for layer in layers:
        os.close(layer.fd)


# --- commands -----------------------------------------------------------------------------


class Reader:
    """Walks a vault; counts and names what is damaged."""

    def __init__(self, vault: Vault) -> None:
        self.vault, self.damaged = vault, 0
        # Of files with several names the first one that was exported, and the directory that it is relative to.
        self.exported: dict[int, bytes] = {}
        self.target: int | None = None

    def report(self, path: bytes, why: str) -> None:
        self.damaged += 1
        print(f"akasha_reader: {show(path)}: {why}", file=sys.stderr)

    def walk(self, directory: int, dir_fd: int, path: bytes) -> Iterator[tuple[Entry, int, bytes]]:
        """(entry, its directory, its path), without what is damaged."""
        listing = self.vault.list(directory, dir_fd)
        for backing, why in listing.damaged:
            self.report(os.path.join(path, b"?"), f"backing name {show(backing)}: {why}")
        for entry in listing.entries:
            full = os.path.join(path, entry.shown)
            try:
                self.vault.see(entry, full)
                yield entry, dir_fd, full
            except Damaged as error:
                self.report(full, str(error))
            except OSError as error:
                self.report(full, error.strerror)

    def ls(self, directory: int, dir_fd: int, path: bytes = b"") -> None:
        for entry, parent, full in self.walk(directory, dir_fd, path):
            try:
                if entry.kind == DIRECTORY:
                    print(f"{'dir':8}{'':>16}  {show(full)}/")
                    fd = open_dir(parent, entry.backing)
                    try:
                        self.ls(entry.id, fd, full)
                    finally:
                        os.close(fd)
                    continue
                layers = self.vault.layers(entry, parent)
                size = layers[0].size
                close(layers)
                print(f"{KINDS[entry.kind]:8}{size:>16}  {show(full)}")
            except Damaged as error:
                self.report(full, str(error))

    def find(self, path: bytes) -> tuple[Entry, int]:
        directory, dir_fd, entry = ROOT_ID, os.dup(self.vault.root), None
        parts = [part for part in path.split(b"/") if part]
        for depth, part in enumerate(parts):
            entries = self.vault.list(directory, dir_fd).entries
            entry = next((one for one in entries if one.shown == part), None)
            if entry is None:
                raise Damaged("no such file, or one that does not open")
            if depth + 1 < len(parts):
                if entry.kind != DIRECTORY:
                    raise Damaged("not a directory on the way")
                dir_fd, directory = open_dir(dir_fd, entry.backing), entry.id
        if entry is None or entry.kind == DIRECTORY:
            raise Damaged("a directory")
        return entry, dir_fd

    def cat(self, path: bytes) -> None:
        out = sys.stdout.buffer
        try:
            entry, dir_fd = self.find(path)
            for zeros, data in self.vault.content(entry, dir_fd):
                out.write(data)
                for start in range(0, zeros, 1 << 20):
                    out.write(bytes(min(1 << 20, zeros - start)))
            out.flush()
        except Damaged as error:
            self.report(path, str(error))

    def export(self, directory: int, dir_fd: int, target: int, path: bytes = b"") -> None:
        if self.target is None:
            self.target = target
        for entry, parent, full in self.walk(directory, dir_fd, path):
            try:
                if entry.inode in self.exported:
                    first = self.exported[entry.inode]
                    os.link(first, entry.shown, src_dir_fd=self.target, dst_dir_fd=target, follow_symlinks=False)
                    continue
                if entry.kind == DIRECTORY:
                    self.export_dir(entry, parent, target, full)
                elif entry.kind == SYMLINK:
                    content = b"".join(data for _, data in self.vault.content(entry, parent))
                    os.symlink(content, entry.shown, dir_fd=target)
                elif entry.kind == FILE:
                    self.export_file(entry, parent, target)
                elif entry.kind == FIFO:
                    close(self.vault.layers(entry, parent))
                    os.mkfifo(entry.shown, 0o600, dir_fd=target)
                else:
                    self.report(full, f"a {KINDS[entry.kind]} is not exported")
                    continue
                if entry.inode:
                    self.exported[entry.inode] = full
            except (Damaged, ValueError) as error:
                self.report(full, str(error))

    def export_dir(self, entry: Entry, parent: int, target: int, full: bytes) -> None:
        os.mkdir(entry.shown, 0o700, dir_fd=target)
        source = open_dir(parent, entry.backing)
        made = open_dir(target, entry.shown)
        try:
            self.export(entry.id, source, made, full)
            self.give(entry, made, source)
        finally:
            os.close(source)
            os.close(made)

    def export_file(self, entry: Entry, parent: int, target: int) -> None:
        out = os.open(entry.shown, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=target)
        try:
            size = 0
            for zeros, data in self.vault.content(entry, parent):
                size += zeros + len(data)
                if zeros:
                    os.lseek(out, zeros, os.SEEK_CUR)
                while data:
                    data = data[os.write(out, data) :]
            os.ftruncate(out, size)
            source = open_file(*self.vault.home(entry, parent))
            try:
                self.give(entry, out, source)
            finally:
                os.close(source)
        except BaseException:
            # Half a file must not pass for a whole one.
            os.unlink(entry.shown, dir_fd=target)
            raise
        finally:
            os.close(out)

    def give(self, entry: Entry, made: int, source: int) -> None:
        """Attributes, permission bits and times of an exported object. What would hand out rights stays behind."""
        for name, value in self.vault.attributes(entry, source):
            if name.startswith(b"user."):
                try:
                    os.setxattr(made, name, value)
                except OSError as error:
                    print(f"an attribute of entry {entry.file:016x} is left out: {error}", file=sys.stderr)
        os.fchmod(made, self.vault.mode(entry, source) & 0o777)
        info = os.fstat(source)
        os.utime(made, ns=(info.st_atime_ns, info.st_mtime_ns))


def read_password(path: str | None) -> bytes:
    """A file without its last newline, or the first line of standard input."""
    if path is None:
        password = sys.stdin.buffer.readline(4098).removesuffix(b"\n")
    else:
        with open(path, "rb") as file:
            password = file.read(4098).removesuffix(b"\n")
    if not 1 <= len(password) <= 4096:
        raise Refused(EXIT_PASSWORD, "a password has 1 to 4096 bytes")
    return password


def main() -> int:
    option = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    option.add_argument("--password-file", metavar="FILE", help="read the password from FILE, not from stdin")
    parser = argparse.ArgumentParser(description=__doc__, parents=[option],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about, argument in (
        ("ls", "list every file", None),
        ("cat", "print a file", "path"),
        ("export", "copy everything into a new or empty directory", "dir"),
    ):
        command = commands.add_parser(name, help=about, parents=[option])
        command.add_argument("vault")
        if argument:
            command.add_argument(argument)
    arguments = parser.parse_args()
    try:
        vault = Vault(arguments.vault, read_password(getattr(arguments, "password_file", None)))
        reader = Reader(vault)
        if arguments.command == "ls":
            reader.ls(ROOT_ID, vault.root)
        elif arguments.command == "cat":
            reader.cat(os.fsencode(arguments.path))
        else:
            os.makedirs(arguments.dir, exist_ok=True)
            target = os.open(arguments.dir, os.O_RDONLY | os.O_DIRECTORY)
            if os.listdir(target):
                raise Refused(2, f"{arguments.dir} is not empty")
            reader.export(ROOT_ID, vault.root, target)
    except Refused as error:
        print(f"akasha_reader: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"akasha_reader: {error}", file=sys.stderr)
        return EXIT_NO_VAULT
    if reader.damaged:
        print(f"akasha_reader: {reader.damaged} damaged", file=sys.stderr)
        return EXIT_DAMAGED
    return 0


if __name__ == "__main__":
    sys.exit(main())
