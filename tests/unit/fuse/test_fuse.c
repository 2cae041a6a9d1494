/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/fuse/test_fuse.h"

int main(void)
{
    return test_nodes() + test_dirpage() + test_mountpoint() + test_mounts() ? 1 : 0;
}
