/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/base/base_tests.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

int base_dies(void (*fn)(void))
{
    int status = 0;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);

        (void)dup2(null, STDERR_FILENO);
        fn();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

int main(void)
{
    int failed = 0;

    failed += base_run_err();
    failed += base_run_units();
    failed += base_run_text();
    failed += base_run_containers();
    failed += base_run_hash();
    failed += base_run_env();
    failed += base_run_mtx();
    failed += base_run_fault();
    failed += base_run_log();
    failed += base_run_rendezvous();
    return failed > 0;
}
