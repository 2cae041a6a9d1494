/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/unit/turns.h — what tests on a loop of their own share: the test's thread turns the loop;
 * and bytes that follow from a seed and their place, so that any of them can be checked anywhere.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/net/net.h"

/* Turns the loop for so long. */
void turns_for(struct tarn_loop *l, uint64_t ns);
/* Turns it until *flag is at least `n`. */
void turns_until(struct tarn_loop *l, const unsigned *flag, unsigned n);
/* Fails the test when `t` is not stopped in time. */
void turns_guard(struct tarn_loop *l, struct tarn_timer *t, uint64_t ns);

/* Bytes [off, off + n) of file `seed`. */
void pattern_fill(unsigned seed, uint64_t off, void *dst, size_t n);
bool pattern_same(unsigned seed, uint64_t off, const void *p, size_t n);
