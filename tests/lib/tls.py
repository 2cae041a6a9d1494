# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by openssl: one authority, and servers that are good or wrong.

    good         signed by the authority for localhost and 127.0.0.1
    self-signed  signed by itself
    expired      as good, but its time is over
    wrong-host   signed by the authority for another name
"""
import os
import ssl

from tests.lib import util

KINDS = ("good", "self-signed", "expired", "wrong-host")
_EXPIRED = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
_CA_CONF = """[ca]
default_ca = test
[test]
database = {dir}/index
serial = {dir}/serial
new_certs_dir = {dir}
default_md = sha256
policy = any
[any]
commonName = supplied
"""
_OWN_NAMES = "DNS:localhost,IP:127.0.0.1"


class Certificates:
    def __init__(self, directory):
        self.dir = str(directory)
        os.makedirs(self.dir, exist_ok=True)
        self.ca = f"{self.dir}/ca.pem"
        util.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=test authority",
                 "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", f"{self.dir}/ca.key", "-out", self.ca)
        for kind in KINDS:
            self._make(kind)

    def _make(self, kind):
        key, request, cert = (f"{self.dir}/{kind}.{end}" for end in ("key", "csr", "pem"))
        names = "DNS:store.example" if kind == "wrong-host" else _OWN_NAMES
        with open(f"{self.dir}/{kind}.ext", "w", encoding="ascii") as f:
            f.write(f"subjectAltName={names}\n")
            if kind != "self-signed":
                f.write("authorityKeyIdentifier=keyid\n")
        util.run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                 "-nodes", "-subj", "/CN=store", "-keyout", key, "-out", request)
        extensions = ["-extfile", f"{self.dir}/{kind}.ext"]
        if kind == "expired":  # only `openssl ca` takes dates in the past, in each version
            self._sign_in_the_past(request, cert, extensions)
            return
        signer = (["-signkey", key] if kind == "self-signed" else
                  ["-CA", self.ca, "-CAkey", f"{self.dir}/ca.key", "-CAcreateserial"])
        util.run("openssl", "x509", "-req", "-in", request, *signer, "-days", "2", *extensions,
                 "-out", cert)

    def _sign_in_the_past(self, request, cert, extensions):
        for name, text in (("ca.conf", _CA_CONF.format(dir=self.dir)), ("index", ""),
                           ("serial", "1000\n")):
            with open(f"{self.dir}/{name}", "w", encoding="ascii") as f:
                f.write(text)
        util.run("openssl", "ca", "-batch", "-notext", "-config", f"{self.dir}/ca.conf", "-cert",
                 self.ca, "-keyfile", f"{self.dir}/ca.key", "-in", request, "-out", cert,
                 *_EXPIRED, *extensions)

    def server_context(self, kind):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{self.dir}/{kind}.pem", f"{self.dir}/{kind}.key")
        return context
