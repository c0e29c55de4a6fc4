#!/usr/bin/env python3
"""Reads an akasha vault without akasha: a second implementation of docs/FORMAT.md, written from that text.

    akasha_reader.py ls VAULT [PATH]       list everything below PATH: kind, size, path
    akasha_reader.py cat VAULT PATH        write one file to standard output
    akasha_reader.py export VAULT DIR      write everything into the new directory DIR

The password comes from --password-file or standard input, one newline at its end dropped. Everything that is read is
verified; what does not verify is reported, never shown. Exit code 0: all well; 1: something is damaged; 2: wrong usage;
3: no such path, or the vault does not open.

Needs Python 3.11 and the packages cryptography and argon2-cffi (`pip install cryptography argon2-cffi`);
AES-256-GCM-SIV vaults also OpenSSL 3.2 (the wheels from PyPI bring their own).
"""

import argparse
import base64
import binascii
import bisect
import errno
import getpass
import hashlib
import hmac
import os
import re
import stat
import struct
import sys
import tomllib

try:
    import argon2.low_level
    from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV, ChaCha20Poly1305
except ImportError as missing:
    sys.exit(f"{missing}: pip install cryptography argon2-cffi")

FILE, DIRECTORY, SYMLINK, FIFO, SOCKET, CHAR, BLOCK = range(1, 8)
LETTERS = {FILE: "f", DIRECTORY: "d", SYMLINK: "l", FIFO: "p", SOCKET: "s", CHAR: "c", BLOCK: "b"}
SIMPLE, MAPPED, LINK = 1, 2, 3
VERSION, BASE, INODE = 1, 2, 3
SLOT, MAP_PAGE, TAIL, _LOG, BODY = 1, 2, 3, 4, 5
OWN, HOLE, UNWRITTEN = 0, 0xFFFF_FFFF, 0xFFFF_FFFE
ROOT, HEADER, TAG, TAIL_LEN, PAGE = 1, 64, 16, 256, 65520


class Damage(Exception):
    """Bytes that are not what the format says."""


class Refused(Exception):
    """The vault does not open; the text says why."""


def check(condition, what):
    if not condition:
        raise Damage(what)


# --- section 2 and 3: vault.toml and keys ---------------------------------------------------------------------


def hkdf_extract(salt, ikm):
    return hmac.digest(salt, ikm, "sha256")


def hkdf_expand(key, info, length):
    out, block = b"", b""
    for counter in range(1, 256):
        if len(out) >= length:
            return out[:length]
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        out += block
    raise ValueError(length)


def xchacha20poly1305_open(key, nonce, sealed, aad):
    """draft-irtf-cfrg-xchacha-03: HChaCha20 makes the key of an ordinary ChaCha20-Poly1305."""

    def rotate(word, by):
        return (word << by | word >> (32 - by)) & 0xFFFF_FFFF

    s = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce[:16]))
    rows = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for _ in range(10):
        for a, b, c, d in rows + diagonals:
            for x, y, z, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                s[x] = (s[x] + s[y]) & 0xFFFF_FFFF
                s[z] = rotate(s[z] ^ s[x], by)
    subkey = struct.pack("<8I", *s[0:4], *s[12:16])
    return ChaCha20Poly1305(subkey).decrypt(b"\0" * 4 + nonce[16:], sealed, aad)


def unhex(text, length, what):
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", text):
        raise Refused(f"vault.toml: {what} is not {length} bytes in hex")
    return bytes.fromhex(text)


FILE_KEYS = {
    "format": int, "min_reader": int, "vault_id": str, "serial": int, "previous_seal": str, "created": int,
    "cipher": str, "block_size": int, "epoch": int, "epoch_min": int, "keyring": list, "incompat": list,
    "ro_compat": list, "compat": list, "placement": str, "slot": list,
}  # fmt: skip
SLOT_KEYS = {
    "id": int, "kind": str, "label": str, "kdf": str, "memory_kib": int, "passes": int, "lanes": int,
    "salt": str, "nonce": str, "commitment": str, "wrapped": str, "opaque": str,
}  # fmt: skip
CIPHERS = {"chacha20-poly1305": 1, "aes-256-gcm": 2, "aes-256-gcm-siv": 3}


def check_keys(table, kinds, what):
    if not isinstance(table, dict) or set(table) != set(kinds):
        raise Refused(f"{what} has not exactly the keys of format 1")
    for key, kind in kinds.items():
        if type(table[key]) is not kind or (kind is int and table[key] < 0):
            raise Refused(f"{what}: {key} is not what it should be")


def parse_config(data):
    if len(data) > 65536:
        raise Refused("vault.toml is longer than 64 KiB")
    end = data[:-1].rfind(b"\n") + 1
    body, last = data[:end], data[end:]
    seal = re.fullmatch(rb'seal = "([0-9a-f]{64})"\n', last)
    if not seal:
        raise Refused("vault.toml has no seal in its last line")
    try:
        config = tomllib.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Refused(f"vault.toml: {error}") from None
    if config.get("format") != 1 or config.get("min_reader") not in (0, 1):
        raise Refused("the vault has a newer format than this reader knows")
    check_keys(config, FILE_KEYS, "vault.toml")
    if config["incompat"] or config["keyring"] or config["epoch"] or config["epoch_min"]:
        raise Refused("the vault uses something that this reader does not know")
    size = config["block_size"]
    if config["cipher"] not in CIPHERS or config["placement"] != "loose":
        raise Refused("the vault uses a cipher or placement that this reader does not know")
    if size & (size - 1) or not 4096 <= size <= 1 << 20:
        raise Refused("vault.toml: an impossible block size")
    unhex(config["vault_id"], 16, "vault_id")
    if config["previous_seal"]:
        unhex(config["previous_seal"], 32, "previous_seal")
    if not 1 <= len(config["slot"]) <= 16:
        raise Refused("vault.toml: between 1 and 16 key slots")
    for slot in config["slot"]:
        check_keys(slot, SLOT_KEYS, "a key slot")
        if slot["kdf"] != "argon2id":
            raise Refused("a key slot has another key derivation")
        in_bounds = 19456 <= slot["memory_kib"] <= 4 << 20 and 2 <= slot["passes"] <= 64
        if not in_bounds or not 1 <= slot["lanes"] <= 64:
            raise Refused("a key slot's cost is out of bounds")
        if slot["id"] >= 1 << 32 or len(slot["label"].encode()) > 255 or len(slot["opaque"].encode()) > 1024:
            raise Refused("an oversized key slot")
        for key, length in (("salt", 32), ("nonce", 24), ("commitment", 32), ("wrapped", 64)):
            unhex(slot[key], length, key)
    if len({slot["id"] for slot in config["slot"]}) != len(config["slot"]):
        raise Refused("vault.toml: two slots with one id")
    return config, body, bytes.fromhex(seal[1].decode())


def slot_aad(slot, vault_id):
    fields = [b"akasha slot", vault_id]
    for key in ("id", "kind", "label", "kdf", "memory_kib", "passes", "lanes", "salt", "nonce", "commitment", "opaque"):
        value = slot[key]
        fields.append(struct.pack("<I", value) if isinstance(value, int) else value.encode())
    return b"".join(struct.pack("<I", len(field)) + field for field in fields)


def master_key(config, password):
    vault_id = bytes.fromhex(config["vault_id"])
    for slot in config["slot"]:
        if slot["kind"] != "password":
            continue
        hashed = argon2.low_level.hash_secret_raw(
            password, bytes.fromhex(slot["salt"]), time_cost=slot["passes"], memory_cost=slot["memory_kib"],
            parallelism=slot["lanes"], hash_len=32, type=argon2.low_level.Type.ID, version=0x13,
        )  # fmt: skip
        commitment = hkdf_expand(hashed, b"slot commit", 32)
        if not hmac.compare_digest(commitment, bytes.fromhex(slot["commitment"])):
            continue
        wrap, nonce = hkdf_expand(hashed, b"slot wrap", 32), bytes.fromhex(slot["nonce"])
        try:
            plain = xchacha20poly1305_open(wrap, nonce, bytes.fromhex(slot["wrapped"]), slot_aad(slot, vault_id))
        except InvalidTag:
            raise Refused("vault.toml was changed or damaged: a key slot does not authenticate") from None
        if plain[32:] != bytes(16):
            raise Refused("vault.toml was changed or damaged: a key slot of another epoch")
        return plain[:32]
    raise Refused("wrong password")


# --- the vault ------------------------------------------------------------------------------------------------


class Vault:
    def __init__(self, path, password, any_cost=False):
        self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.control = os.open(".akasha", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.root)
            fd = open_file(b"vault.toml", self.control)
        except FileNotFoundError:
            raise Refused("no vault: there is no .akasha/vault.toml") from None
        with os.fdopen(fd, "rb") as file:
            config, body, seal = parse_config(file.read(65537))
        cost = max(slot["memory_kib"] * slot["passes"] for slot in config["slot"])
        if cost > 16 << 20 and not any_cost:
            raise Refused("deriving the key costs more than 16 GiB of memory times passes: --any-cost allows it")
        pseudo_random = hkdf_extract(bytes.fromhex(config["vault_id"]), master_key(config, password))

        def key(label, length=32):
            return hkdf_expand(pseudo_random, b"akasha v1 " + label, length)

        if not hmac.compare_digest(hmac.digest(key(b"config-seal"), body, "sha256"), seal):
            raise Refused("vault.toml was changed or damaged: its seal does not fit")
        self.block = config["block_size"]
        self.slot = self.block + TAG
        self.cipher_byte = CIPHERS[config["cipher"]]
        self.cipher = self.aead(config["cipher"])
        self.content, self.stub = key(b"content"), key(b"stub")
        self.names = AESSIV(key(b"names", 64))
        self.xattr_names, self.xattr_values = AESSIV(key(b"xattr-name", 64)), key(b"xattr-value")

    @staticmethod
    def aead(name):
        if name == "chacha20-poly1305":
            return ChaCha20Poly1305
        if name == "aes-256-gcm":
            return AESGCM
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

            AESGCMSIV(bytes(32))
        except (ImportError, UnsupportedAlgorithm):
            raise Refused(
                "the vault uses AES-256-GCM-SIV: that needs OpenSSL 3.2 or later under the Python package"
                " cryptography (pip install --upgrade cryptography brings one)"
            ) from None
        return AESGCMSIV

    def blocks(self, size):
        return -(-size // self.block)

    def length_class(self, length):
        """Section 8: (form, size or None)."""
        if length == HEADER + TAG + TAIL_LEN:
            return LINK, None
        check(length >= HEADER + TAIL_LEN, f"no object has {length} bytes")
        full, rest = divmod(length - HEADER - TAIL_LEN, self.slot)
        if rest == 8:
            return MAPPED, None
        check(rest == 0 or rest > TAG, f"no object has {length} bytes")
        return SIMPLE, full * self.block + (rest - TAG if rest else 0)

    # --- section 4 and 5: names -------------------------------------------------------------------------------

    def open_entry(self, parent, sealed):
        check(sealed[:1] == b"A", "an entry of another epoch")
        text = sealed[1:]
        try:
            raw = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise Damage("a name that is no base64") from None
        check(base64.urlsafe_b64encode(raw).rstrip(b"=") == text, "a name that is not canonical base64")
        check(len(raw) > TAG, "a name that is too short")
        try:
            plain = self.names.decrypt(raw, [b"entry", struct.pack("<Q", parent)])
        except InvalidTag:
            raise Damage("a name that does not authenticate") from None
        check(len(plain) >= 32 and len(plain) % 16 == 0, "an entry's length")
        version, kind, flags, entry, replaces = struct.unpack_from("<BBBQQ", plain)
        is_device = kind in (CHAR, BLOCK)
        check(version == 1 and kind in LETTERS and flags == int(is_device), "an entry's version, kind or flags")
        check(2 <= entry < 1 << 63, "an entry's id")
        check(replaces == 0 or (2 <= replaces < 1 << 63 and replaces != entry), "what an entry replaces")
        start = 27 if is_device else 19
        name = plain[start:].rstrip(b"\0")
        check(name[-1:] == b"\x80", "an entry's padding")
        name = name[:-1]
        check(-(-(start + len(name) + 1) // 16) * 16 == len(plain), "an entry's padding")
        fine = 1 <= len(name) <= 255 and b"\0" not in name and b"/" not in name and name not in (b".", b"..")
        check(fine, "an entry's name")
        return Entry(kind, entry, replaces, name)

    def sealed_name(self, backing, fd):
        """The sealed entry behind a backing name."""
        if not is_long(backing):
            return backing
        try:
            sidecar = open_file(backing + b".name", fd)
        except OSError as error:
            raise Damage(f"a long name without its sidecar ({os.strerror(error.errno)})") from None
        with os.fdopen(sidecar, "rb") as file:
            sealed = file.read(4097)
        digest = base64.urlsafe_b64encode(hashlib.sha256(sealed).digest()).rstrip(b"=")
        check(255 < len(sealed) <= 4096 and b"L" + digest == backing, "a sidecar that does not fit its name")
        return sealed

    def list(self, fd, parent):
        """What a directory shows: entries with their shown names, damage among them."""
        entries, damaged = [], []
        for backing in map(os.fsencode, os.listdir(fd)):
            if backing in (b".akasha", b".akasha.new", b".dir") or is_sidecar(backing):
                continue
            try:
                entry = self.open_entry(parent, self.sealed_name(backing, fd))
                mode = os.stat(backing, dir_fd=fd, follow_symlinks=False).st_mode
                check(stat.S_ISDIR(mode) if entry.kind == DIRECTORY else stat.S_ISREG(mode), "an object of another type")
                entry.backing = backing
                entries.append(entry)
            except (Damage, OSError) as why:
                damaged.append((backing, str(why)))
        groups = {}
        for entry in entries:
            groups.setdefault(entry.name, []).append(entry)
        shown, conflicts = {}, []
        for name in sorted(groups):
            group = sorted(groups[name], key=lambda entry: entry.id)
            replaced = {entry.replaces for entry in group}
            living = [entry for entry in group if entry.id not in replaced] or group
            shown[name] = living[0]
            conflicts += living[1:]
        for entry in conflicts:
            shown[free_name(shown, entry.name, f" (conflict {entry.id & 0xFFFF_FFFF:08x})")] = entry
        for backing, why in sorted(damaged, key=lambda item: hashlib.sha256(item[0]).digest()):
            digest = hashlib.sha256(backing).hexdigest()[:16]
            shown[free_name(shown, f"akasha-damaged-{digest}".encode(), "")] = Entry(None, None, 0, b"", why)
        return shown

    # --- section 13 -------------------------------------------------------------------------------------------

    def true_mode(self, fd, entry, mode):
        name = b"akasha\0mode"
        padded = (name + b"\x80").ljust(16, b"\0")
        sealed = self.xattr_names.encrypt(padded, [b"xattr", struct.pack("<Q", entry)])
        try:
            value = os.getxattr(fd, b"user.akasha." + base64.urlsafe_b64encode(sealed).rstrip(b"="))
            aad = struct.pack("<Q", entry) + name
            return struct.unpack("<I", xchacha20poly1305_open(self.xattr_values, value[:24], value[24:], aad))[0]
        except (OSError, InvalidTag, struct.error):
            return mode


class Entry:
    def __init__(self, kind, entry, replaces, name, damage=None):
        self.kind, self.id, self.replaces, self.name, self.damage = kind, entry, replaces, name, damage
        self.backing = None


def is_long(name):
    return len(name) == 44 and name[:1] == b"L"


def is_sidecar(name):
    return name.endswith(b".name") and is_long(name[:-5])


def free_name(taken, name, mark):
    number, suffix = 0, mark.encode()
    while (candidate := name[: 255 - len(suffix)] + suffix) in taken:
        number += 1
        suffix = f"{mark}-{number}".encode()
    return candidate


def open_file(name, dir_fd):
    """A regular file and nothing else."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Damage("not a regular file")
    return fd


# --- sections 6 to 12: objects --------------------------------------------------------------------------------


class Layer:
    """An open layer (or stub) with verified header, tail and map."""

    def __init__(self, vault, fd, entry, roles, kind=1):
        self.vault, self.fd = vault, fd
        self.length = os.fstat(fd).st_size
        form, size = vault.length_class(self.length)
        check((form == LINK) == (kind == 2), "a stub and a layer in each other's place")
        header = self.read(0, HEADER)
        expected = b"akasha\r\n" + struct.pack("<HBBBBHII", 1, kind, vault.cipher_byte, vault.block.bit_length() - 1, 0, 0, 0, 0)
        check(header[:24] == expected and header[56:] == bytes(8), "a header that is not this vault's")
        self.id = header[24:56]
        parent_key = vault.stub if kind == 2 else vault.content
        self.aead = vault.cipher(hkdf_expand(parent_key, b"object" + header, 32))
        sealed = self.read(self.length - TAIL_LEN, TAIL_LEN)
        self.tag = sealed[-TAG:]
        self.parse_tail(self.open(TAIL, 0, sealed), form, size, entry, roles)
        if kind == 2:
            self.open(BODY, 0, self.read(HEADER, TAG))
        self.extents, self.parents = [], []
        if self.form == MAPPED:
            self.parse_map()
            self.starts = [extent[0] for extent in self.extents]

    def read(self, offset, length):
        data = os.pread(self.fd, length, offset)
        check(len(data) == length, "a layer that is shorter than it says")
        return data

    def open(self, domain, index, sealed):
        try:
            return self.aead.decrypt(struct.pack("<B3xQ", domain, index), sealed, None)
        except InvalidTag:
            part = {SLOT: f"slot {index}", MAP_PAGE: f"page {index} of the map", TAIL: "the tail", BODY: "the body"}
            raise Damage(f"{part[domain]} does not authenticate") from None

    def parse_tail(self, t, form, size, entry, roles):
        block = self.vault.block
        self.form, role, flags, last, self.entry, self.commit, self.size, self.slots = struct.unpack_from("<BBHIQQQQ", t)
        map_len, pages, parents, home = struct.unpack_from("<QIIQ", t, 40)
        self.map_len, self.pages, self.parent_count, self.last = map_len, pages, parents, last
        reserved = t[64:72] + t[96:136] + t[144:160] + t[172:240]
        check(not any(reserved) and flags == 0, "a tail with unknown flags or reserved bytes")
        check(self.entry == entry, "another file's content")
        check(1 <= home < 1 << 63, "a tail without a home")
        check(role in roles, "a layer in another role")
        check(self.form == form, "a tail that does not fit the file's length")
        check(self.size < 1 << 63 and self.slots <= 1 << 32 and map_len <= 1 << 40, "a tail with impossible sizes")
        if form == LINK:
            check((last, self.size, self.slots, map_len, pages, parents) == (0,) * 6, "a stub with content")
            return
        check(1 <= last <= block if self.slots else last == 0, "a tail with an impossible last slot")
        slots_len = (self.slots - 1) * self.vault.slot + last + TAG if self.slots else 0
        check(HEADER + slots_len + map_len + TAIL_LEN == self.length, "a file longer or shorter than its tail says")
        if form == SIMPLE:
            check(size == self.size and self.slots == self.vault.blocks(size), "a simple tail of another size")
            check(last == ((size - 1) % block + 1 if size else 0), "a simple tail of another size")
            check((map_len, pages, parents) == (0, 0, 0), "a simple layer with a map")
        else:
            plain = map_len - TAG * pages
            check(plain > 0 and -(-plain // PAGE) == pages, "a map of another number of pages")
            check(last == block or self.slots == 0, "a mapped layer with a short slot")

    def parse_map(self):
        at, plain = self.length - TAIL_LEN - self.map_len, b""
        for page in range(self.pages):
            length = min(PAGE + TAG, self.length - TAIL_LEN - at)
            plain += self.open(MAP_PAGE, page, self.read(at, length))
            at += length
        check(self.parent_count * 96 <= len(plain), "a map with less room than parents")
        seen, newer = {self.id}, self.commit
        for at in range(0, self.parent_count * 96, 96):
            layer, tag, owner, commit, _size, zeros = struct.unpack_from("<32s16sQQQ24s", plain, at)
            check(owner == self.entry and zeros == bytes(24), "a parent of another file, epoch or kind")
            check(layer not in seen and commit < newer, "parents that are not in order")
            seen.add(layer)
            newer = commit
            self.parents.append((layer, tag))
        at, blocks, before = self.parent_count * 96, self.vault.blocks(self.size), None
        while at + 32 <= len(plain) and any(plain[at : at + 32]):
            block, count, source, flags, slot = extent = struct.unpack_from("<QQIIQ", plain, at)
            check(count > 0 and block + count <= blocks, "an extent outside the file")
            check(source in (OWN, HOLE, UNWRITTEN) and flags == 0, "an extent of an unknown kind")
            check(slot + count <= self.slots if source == OWN else slot == 0, "an extent outside the slots")
            if before:
                end = before[0] + before[1]
                one = before[2] == source and (source != OWN or before[4] + before[1] == slot)
                check(end <= block and not (end == block and one), "extents that are not in order")
            self.extents.append(extent)
            before, at = extent, at + 32
        check(not any(plain[at:]), "a map with something behind its padding")

    def runs(self, first, end):
        """The part of blocks first..end that this layer has: (block, count, slot or None for a hole)."""
        if self.form == SIMPLE:
            if first < min(end, self.slots):
                yield first, min(end, self.slots) - first, first
            return
        for index in range(max(0, bisect.bisect_right(self.starts, first) - 1), len(self.extents)):
            block, count, source, _flags, slot = self.extents[index]
            low, high = max(block, first), min(block + count, end)
            if block >= end:
                return
            if low < high:
                yield low, high - low, slot + low - block if source == OWN else None

    def slot(self, slot):
        """A slot's plaintext."""
        length = self.last if slot == self.slots - 1 else self.vault.block
        return self.open(SLOT, slot, self.read(HEADER + slot * self.vault.slot, length + TAG))


class File:
    """A file's version: its top and all layers below. Section 11."""

    def __init__(self, vault, dir_fd, entry):
        self.vault, self.entry, self.fds = vault, entry, []
        try:
            top = self.keep(open_file(entry.backing, dir_fd))
            self.stat = os.fstat(top)
            self.mode = vault.true_mode(top, entry.id, stat.S_IMODE(self.stat.st_mode))
            roles = (VERSION,)
            self.is_stub = vault.length_class(self.stat.st_size)[0] == LINK
            if self.is_stub:
                Layer(vault, top, entry.id, (INODE,), kind=2)
                top, roles = self.keep(self.control_file(f"inodes/{entry.id:016x}")), (INODE,)
            self.layers = [Layer(vault, top, entry.id, roles)]
            self.size = self.layers[0].size
        except BaseException:
            self.close()
            raise

    def control_file(self, name):
        try:
            return open_file(name, self.vault.control)
        except OSError as error:
            raise Damage(f"{name}: {os.strerror(error.errno)}") from None

    def keep(self, fd):
        self.fds.append(fd)
        return fd

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def open_parents(self):
        for layer, tag in self.layers[0].parents:
            fd = self.keep(self.control_file(f"layers/{self.entry.id:016x}.{layer.hex()}"))
            parent = Layer(self.vault, fd, self.entry.id, (VERSION, BASE, INODE))
            check((parent.id, parent.tag) == (layer, tag), "a layer that is not what its top refers to")
            self.layers.append(parent)

    def runs(self, first, end, depth=0):
        """Blocks first..end in order: (block, count, layer or None for a hole, slot)."""
        if first < end:
            check(depth < len(self.layers), "layers that do not cover the file")
            layer, at = self.layers[depth], first
            for block, count, slot in layer.runs(first, end):
                yield from self.runs(at, block, depth + 1)
                yield block, count, None if slot is None else layer, slot
                at = block + count
            yield from self.runs(at, end, depth + 1)

    def content(self):
        """The content in pieces: bytes, or a number of zeros."""
        if len(self.layers) == 1:
            self.open_parents()
        block_len = self.vault.block
        for block, count, layer, slot in self.runs(0, self.vault.blocks(self.size)):
            if layer is None:
                yield min((block + count) * block_len, self.size) - block * block_len
                continue
            for i in range(count):
                shown = min(block_len, self.size - (block + i) * block_len)
                yield layer.slot(slot + i).ljust(block_len, b"\0")[:shown]

    def bytes(self):
        return b"".join(piece if isinstance(piece, bytes) else bytes(piece) for piece in self.content())


# --- commands -------------------------------------------------------------------------------------------------


def printable(path):
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() and c != "\\" else f"\\x{ord(c):02x}" for c in text)


class Walk:
    """Goes through a tree, names in order. Subclasses say what to do with what is found."""

    def __init__(self, vault):
        self.vault, self.seen, self.failed = vault, {}, False

    def directory(self, fd, entry, name, path):
        """A directory, before what is in it."""

    def left(self, fd, entry):
        """A directory, after what is in it."""

    def complain(self, path, why):
        self.failed = True
        sys.stdout.flush()
        print(f"{printable(path)}: {why}", file=sys.stderr)

    def once(self, entry, is_stub=False):
        """An entry id stands in one place, unless every place holds a stub."""
        is_first = entry.id not in self.seen
        check(is_first or (self.seen[entry.id] and is_stub), "an entry id that is in the tree twice")
        self.seen[entry.id] = is_stub

    def below(self, fd, directory, path):
        try:
            shown = self.vault.list(fd, directory)
        except OSError as error:
            self.complain(path, error.strerror)
            return
        for name in sorted(shown):
            try:
                self.one(fd, shown[name], name, os.path.join(path, name))
            except Damage as why:
                self.complain(os.path.join(path, name), why)
            except OSError as error:
                self.complain(os.path.join(path, name), error.strerror)

    def one(self, fd, entry, name, path):
        if entry.damage:
            raise Damage(entry.damage)
        if entry.kind != DIRECTORY:
            with File(self.vault, fd, entry) as file:
                self.once(entry, file.is_stub)
                self.file(file, entry, name, path)
            return
        self.once(entry)
        child = open_dir(entry.backing, fd)
        try:
            self.directory(child, entry, name, path)
            self.below(child, entry.id, path)
            self.left(child, entry)
        finally:
            os.close(child)


def open_dir(name, dir_fd):
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)


class List(Walk):
    def directory(self, fd, entry, name, path):
        print(f"d {'-':>12} {printable(path)}")

    def file(self, file, entry, name, path):
        target = " -> " + printable(file.bytes()) if entry.kind == SYMLINK else ""
        print(f"{LETTERS[entry.kind]} {file.size:>12} {printable(path)}{target}")


class Export(Walk):
    def __init__(self, vault, target):
        super().__init__(vault)
        os.mkdir(target)
        self.out = [os.open(target, os.O_RDONLY | os.O_DIRECTORY)]

    def directory(self, fd, entry, name, path):
        os.mkdir(name, 0o700, dir_fd=self.out[-1])
        self.out.append(open_dir(name, self.out[-1]))

    def left(self, fd, entry):
        out, found = self.out.pop(), os.fstat(fd)
        os.fchmod(out, self.vault.true_mode(fd, entry.id, stat.S_IMODE(found.st_mode)) & 0o777)
        os.utime(out, ns=(found.st_atime_ns, found.st_mtime_ns))
        os.close(out)

    def file(self, file, entry, name, path):
        out, times = self.out[-1], (file.stat.st_atime_ns, file.stat.st_mtime_ns)
        if entry.kind == SYMLINK:
            os.symlink(file.bytes(), name, dir_fd=out)
            os.utime(name, ns=times, dir_fd=out, follow_symlinks=False)
        elif entry.kind == FIFO:
            os.mkfifo(name, file.mode & 0o777, dir_fd=out)
        elif entry.kind == FILE:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=out)
            try:
                write_pieces(fd, file.content())
                os.ftruncate(fd, file.size)
                os.fchmod(fd, file.mode & 0o777)
                os.utime(fd, ns=times)
            except BaseException:
                os.unlink(name, dir_fd=out)
                raise
            finally:
                os.close(fd)
        else:
            self.complain(path, "a socket or device is not exported")


def write_pieces(fd, pieces):
    """Zeros become holes."""
    for piece in pieces:
        if isinstance(piece, int):
            os.lseek(fd, piece, os.SEEK_CUR)
            continue
        while piece:
            piece = piece[os.write(fd, piece) :]


def find(vault, path):
    """(descriptor of its directory, entry, shown path) of a path; for the root (root, None, b"")."""
    fd, directory, entry, walked = vault.root, ROOT, None, b""
    for name in (part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")):
        if entry is not None:
            if entry.kind != DIRECTORY:
                raise Refused(f"{printable(walked)}: not a directory")
            fd, directory = open_dir(entry.backing, fd), entry.id
        entry = vault.list(fd, directory).get(name)
        walked = os.path.join(walked, name)
        if entry is None:
            raise Refused(f"{printable(walked)}: no such file or directory")
        check(not entry.damage, entry.damage)
    return fd, entry, walked


def cat(vault, path):
    fd, entry, walked = find(vault, path)
    if entry is None or entry.kind != FILE:
        raise Refused(f"{printable(walked)}: not a regular file")
    with File(vault, fd, entry) as file:
        for piece in file.content():
            while isinstance(piece, int) and piece > 0:
                sys.stdout.buffer.write(bytes(min(piece, 1 << 20)))
                piece -= 1 << 20
            if isinstance(piece, bytes):
                sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def read_password(args):
    if args.password_file:
        with open(args.password_file, "rb") as file:
            password = file.read(4098)
    elif sys.stdin.isatty():
        password = os.fsencode(getpass.getpass("Password: "))
    else:
        password = sys.stdin.buffer.read(4098)
    return password.removesuffix(b"\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("ls", "cat", "export"))
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument("path", metavar="PATH", nargs="?")
    parser.add_argument("--password-file", metavar="FILE")
    parser.add_argument("--any-cost", action="store_true", help="also derive keys that cost more than 16 GiB")
    args = parser.parse_args()
    if args.path is None and args.command != "ls":
        parser.error(f"{args.command} needs a path")
    # A frame or two and a descriptor for every level of directories.
    sys.setrecursionlimit(20_000)
    try:
        vault = Vault(args.vault, read_password(args), args.any_cost)
        if args.command == "cat":
            cat(vault, args.path)
            return 0
        walk = List(vault) if args.command == "ls" else Export(vault, args.path)
        fd, entry, walked = find(vault, args.path) if args.command == "ls" and args.path else (vault.root, None, b"")
        if entry is None:
            walk.below(fd, ROOT, b"")
        else:
            walk.one(fd, entry, os.path.basename(walked), walked)
        return int(walk.failed)
    except Refused as why:
        print(why, file=sys.stderr)
        return 3
    except Damage as why:
        print(f"{args.path or args.vault}: {why}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"{os.fsdecode(error.filename or args.vault)}: {error.strerror}", file=sys.stderr)
        return 3 if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EACCES) else 1


if __name__ == "__main__":
    sys.exit(main())
