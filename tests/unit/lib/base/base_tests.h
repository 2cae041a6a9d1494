/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/unit/lib/base/base_tests.h — the groups of this program, one per file, and what they share.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Each runs one group and returns the number of failed tests. */
int base_run_err(void);
int base_run_units(void);
int base_run_text(void);
int base_run_containers(void);
int base_run_hash(void);
int base_run_env(void);
int base_run_mtx(void);
int base_run_fault(void);
int base_run_log(void);
int base_run_rendezvous(void);

/* Calls `fn` in a child, without its standard error: true when an assertion of ours stopped it. */
int base_dies(void (*fn)(void));
