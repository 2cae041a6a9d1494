/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/hash.h — XXH3-64 (granules, tables) and SHA-256 / HMAC-SHA-256 (cids, signing, tokens).
 * Sources: xxHash 0.8 specification; FIPS 180-4; RFC 2104. Pure functions, any thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint64_t tarn_xxh3(const void *p, size_t n);
uint64_t tarn_xxh3_seed(const void *p, size_t n, uint64_t seed);

static inline uint64_t tarn_hash_u64(uint64_t x) /* splitmix64's finaliser */
{
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

struct tarn_sha256; /* a running hash */
struct tarn_sha256 *tarn_sha256_new(void);
void tarn_sha256_add(struct tarn_sha256 *s, const void *p, size_t n);
void tarn_sha256_end(struct tarn_sha256 **s, uint8_t ret_digest[32]); /* frees */

void tarn_sha256_of(const void *p, size_t n, uint8_t ret_digest[32]);
void tarn_hmac_sha256(const void *key, size_t key_len, const void *p, size_t n,
                      uint8_t ret_mac[32]);
/* Lower-case hex; `dst` has room for 2 n + 1 bytes. */
void tarn_hex(const void *p, size_t n, char *dst);
/* True when equal; the time taken does not depend on where they differ. */
int tarn_mem_equal_ct(const void *a, const void *b, size_t n);
/* Overwrites secrets in a way that the compiler keeps. */
void tarn_wipe(void *p, size_t n);
