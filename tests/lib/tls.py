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
_OWN_NAMES = "DNS:localhost,IP:127.0.0.1"


class Certificates:
    def __init__(self, directory):
        self.dir = str(directory)
        os.makedirs(self.dir, exist_ok=True)
        self.ca = f"{self.dir}/ca.pem"
        util.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=test authority",
                 "-keyout", f"{self.dir}/ca.key", "-out", self.ca)
        for kind in KINDS:
            self._make(kind)

    def _make(self, kind):
        key, request, cert = (f"{self.dir}/{kind}.{end}" for end in ("key", "csr", "pem"))
        names = "DNS:store.example" if kind == "wrong-host" else _OWN_NAMES
        with open(f"{self.dir}/{kind}.ext", "w", encoding="ascii") as f:
            f.write(f"subjectAltName={names}\n")
        util.run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                 "-nodes", "-subj", "/CN=store", "-keyout", key, "-out", request)
        signer = (["-signkey", key] if kind == "self-signed" else
                  ["-CA", self.ca, "-CAkey", f"{self.dir}/ca.key", "-CAcreateserial"])
        days = "-1" if kind == "expired" else "2"
        util.run("openssl", "x509", "-req", "-in", request, *signer, "-days", days, "-extfile",
                 f"{self.dir}/{kind}.ext", "-out", cert)

    def server_context(self, kind):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{self.dir}/{kind}.pem", f"{self.dir}/{kind}.key")
        return context
