/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random calls over a bad network, by seed: chunks of any size, delays, cut connections, cancelled
 * and late requests. Whatever happens, each request ends exactly once, by its deadline, with the
 * right answer or an error that the network explains; and nothing is left in the end.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/lib/rpc/rpc_fixture.h"

#define OPS   60
#define SEEDS 300

static void check_op(const struct op *op, unsigned seed)
{
    bool good = op->done == 1;

    switch (-op->rc) {
    case 0:
        if (op->req.method == TARN_RPC_lookup)
            good &= op->answer == op->lookup.parent + 1;
        else if (op->req.method == TARN_RPC_fill)
            good &= op->answer == op->fill.length;
        else if (op->req.method == TARN_RPC_read)
            good &= op->payload == op->read.length;
        break;
    case TARN_E_CANCELLED:
    case TARN_E_CONN_LOST:
    case TARN_E_CONN_REFUSED:
    case TARN_E_DEADLINE:
        break;
    default:
        good = false;
    }
    if (!good || op->at_ns > op->req.deadline_ns)
        fprintf(stderr, "seed %u: method %u done %u rc %d\n", seed, op->req.method, op->done,
                op->rc);
    assert_true(good);
    assert_true(op->at_ns <= op->req.deadline_ns);
}

static void start_random(struct op *op, struct fx *fx, struct tarn_rng *rng)
{
    static const uint32_t methods[] = {TARN_RPC_lookup, TARN_RPC_lookup,     TARN_RPC_getattr,
                                       TARN_RPC_fill,   TARN_RPC_job_create, TARN_RPC_read};
    uint32_t method = methods[tarn_rng_below(rng, TARN_ARRAY_LEN(methods))];
    struct tarn_buf *b = NULL;

    op_init(op, fx, method, tarn_rng_below(rng, 1000));
    op->req.timeout_ns = 1 + tarn_rng_below(rng, 3 * TARN_NS_PER_S);
    if (method == TARN_RPC_fill) {
        op->fill.length = 1 + tarn_rng_below(rng, 20000);
        b = fx_payload(op->fill.length, op->fill.offset);
        op->req.payload = b;
    }
    op->read.length = (uint32_t)tarn_rng_below(rng, 20000);
    tarn_rpc_start(fx->client, &op->req);
    tarn_buf_unref(&b);
}

static unsigned run_seed(unsigned seed)
{
    struct tarn_rng_seeded rng;
    struct op *ops = calloc(OPS, sizeof(*ops));
    unsigned good = 0;
    struct fx fx;

    assert_non_null(ops);
    tarn_rng_seeded_init(&rng, seed);
    fx_init_sim(&fx, seed);
    tarn_loop_sim_faults(fx.loop, seed, 1 + tarn_rng_below(&rng.base, seed % 3 ? 5000 : 100),
                         tarn_rng_below(&rng.base, 5 * TARN_NS_PER_MS),
                         seed % 4 ? (uint32_t)tarn_rng_below(&rng.base, 5000) : 0);
    fx_serve(&fx, FX_TOKEN);
    fx_listen(&fx, "127.0.0.1:7100");
    fx_connect(&fx, FX_TOKEN);
    for (unsigned i = 0; i < OPS; i++) {
        start_random(&ops[i], &fx, &rng.base);
        if (tarn_rng_below(&rng.base, 10) == 0)
            tarn_rpc_cancel(&ops[tarn_rng_below(&rng.base, i + 1)].req);
        if (tarn_rng_below(&rng.base, 8) == 0)
            fx_release(&fx, 0);
        fx_run(&fx, tarn_rng_below(&rng.base, 30 * TARN_NS_PER_MS));
    }
    for (unsigned i = 0; i < 40; i++) {
        fx_run(&fx, 100 * TARN_NS_PER_MS);
        fx_release(&fx, 0);
    }
    for (unsigned i = 0; i < OPS; i++) {
        check_op(&ops[i], seed);
        good += ops[i].rc == 0;
    }
    tarn_loop_sim_faults(fx.loop, 0, 0, 0, 0); /* when the network is well again, so are we */
    op_start(&ops[0], &fx, TARN_RPC_lookup, 5);
    fx_run(&fx, 10 * TARN_NS_PER_S);
    assert_int_equal(ops[0].rc, 0);
    fx_fini(&fx);
    free(ops);
    return good;
}

static void test_seeds(void **state)
{
    const char *one = getenv("TARN_SEED");
    unsigned good = 0;

    (void)state;
    if (one) {
        (void)run_seed((unsigned)strtoul(one, NULL, 10));
        return;
    }
    for (unsigned seed = 1; seed <= SEEDS; seed++)
        good += run_seed(seed);
    assert_in_range(good, SEEDS * OPS / 3, SEEDS * OPS - SEEDS); /* both kinds of end are seen */
}

/* The same seed is the same story. */
static void test_repeatable(void **state)
{
    (void)state;
    assert_int_equal(run_seed(77), run_seed(77));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_repeatable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
