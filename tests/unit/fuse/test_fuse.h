/* SPDX-License-Identifier: Apache-2.0 */
/* The unit tests of fuse/. Each returns the number of failures. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

int test_nodes(void);
int test_dirpage(void);
int test_mountpoint(void);
int test_mounts(void);
