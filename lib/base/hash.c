/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/hash.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h> /* the same values, with the widest vectors of this processor */
#endif

#include "lib/base/assert.h"
#include "lib/base/err.h"
#include "lib/base/ids.h"

uint64_t tarn_xxh3(const void *p, size_t n)
{
    return XXH3_64bits(p, n);
}

uint64_t tarn_xxh3_seed(const void *p, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(p, n, seed);
}

/* EVP_MD_CTX under our own name: the struct is never defined. */
struct tarn_sha256 *tarn_sha256_new(void)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    TARN_ASSERT(ctx != NULL);
    TARN_ASSERT(EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1);
    return (struct tarn_sha256 *)ctx;
}

void tarn_sha256_add(struct tarn_sha256 *s, const void *p, size_t n)
{
    TARN_ASSERT(EVP_DigestUpdate((EVP_MD_CTX *)s, p, n) == 1);
}

void tarn_sha256_end(struct tarn_sha256 **s, uint8_t ret_digest[32])
{
    unsigned len = 0;

    TARN_ASSERT(EVP_DigestFinal_ex((EVP_MD_CTX *)*s, ret_digest, &len) == 1 && len == 32);
    EVP_MD_CTX_free((EVP_MD_CTX *)*s);
    *s = NULL;
}

void tarn_sha256_of(const void *p, size_t n, uint8_t ret_digest[32])
{
    TARN_ASSERT(EVP_Digest(p, n, ret_digest, NULL, EVP_sha256(), NULL) == 1);
}

void tarn_hmac_sha256(const void *key, size_t key_len, const void *p, size_t n, uint8_t ret_mac[32])
{
    unsigned len = 32;

    TARN_ASSERT(key_len <= INT32_MAX);
    TARN_ASSERT(HMAC(EVP_sha256(), key, (int)key_len, p, n, ret_mac, &len) != NULL);
    TARN_ASSERT(len == 32);
}

void tarn_hex(const void *p, size_t n, char *dst)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *b = p;

    for (size_t i = 0; i < n; i++) {
        dst[2 * i] = digits[b[i] >> 4];
        dst[2 * i + 1] = digits[b[i] & 15];
    }
    dst[2 * n] = 0;
}

int tarn_mem_equal_ct(const void *a, const void *b, size_t n)
{
    return CRYPTO_memcmp(a, b, n) == 0;
}

void tarn_wipe(void *p, size_t n)
{
    OPENSSL_cleanse(p, n);
}

const char *tarn_cid_text(const tarn_cid_t *a, char buf[TARN_CID_HEX])
{
    tarn_hex(a->b, sizeof(a->b), buf);
    return buf;
}

int tarn_cid_parse(const char *hex, tarn_cid_t *ret_cid)
{
    tarn_cid_t cid = {{0}};

    for (int i = 0; i < 32; i++) {
        char c = hex[i];
        int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

        if (v < 0)
            return -TARN_E_INVALID; /* also a NUL: the text is too short */
        cid.b[i / 2] = (uint8_t)(cid.b[i / 2] << 4 | v);
    }
    if (hex[32])
        return -TARN_E_INVALID;
    *ret_cid = cid;
    return 0;
}
