/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rate is smoothed over about RATE_TAU_NS, so that the time left does not jump; it starts with
 * the mean since the beginning. A bar is one line that is never wider than the terminal (a wrapped
 * line could not be written over).
 */
#include "tools/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"

#define RATE_TAU_NS   (5 * TARN_NS_PER_S)
#define RATE_STEP_NS  (200 * TARN_NS_PER_MS) /* shorter intervals say nothing */
#define BAR_EVERY_NS  (150 * TARN_NS_PER_MS)
#define LINE_EVERY_NS (10 * TARN_NS_PER_S)
#define BAR_MIN       10u
#define BAR_MAX       30u
#define ETA_MAX_S     (100.0 * 24 * 3600) /* longer is no estimate */

void progress_init(struct progress *p, const char *what, bool quiet, uint64_t now_ns)
{
    *p = (struct progress){.what = what,
                           .terminal = isatty(STDERR_FILENO),
                           .quiet = quiet,
                           .start_ns = now_ns,
                           .shown_ns = now_ns,
                           .rate_ns = now_ns};
}

void progress_feed(struct progress *p, const struct progress_at *at, uint64_t now_ns)
{
    uint64_t dt = now_ns - p->rate_ns;
    double now_rate, weight;

    if (dt < RATE_STEP_NS)
        return;
    now_rate =
        at->bytes > p->rate_bytes ? (double)(at->bytes - p->rate_bytes) * 1e9 / (double)dt : 0.0;
    weight = p->rate_ns == p->start_ns ? 1.0 : (double)dt / ((double)dt + (double)RATE_TAU_NS);
    p->rate += weight * (now_rate - p->rate);
    p->rate_ns = now_ns;
    p->rate_bytes = at->bytes;
}

static void progress_bar(const struct progress_at *at, unsigned width, struct tarn_str *out)
{
    unsigned filled;
    double part;

    if (at->bytes_total > 0)
        part = (double)at->bytes / (double)at->bytes_total;
    else if (at->files_total > 0)
        part = (double)at->files / (double)at->files_total;
    else
        return;
    part = TARN_MIN(part, 1.0);
    filled = (unsigned)(part * width);
    tarn_str_addc(out, '[');
    for (unsigned i = 0; i < width; i++)
        tarn_str_addc(out, i < filled ? '#' : '.');
    tarn_str_addf(out, "] %3u%%  ", (unsigned)(part * 100.0));
}

static void progress_eta(const struct progress *p, const struct progress_at *at,
                         struct tarn_str *out)
{
    char buf[32];
    double left;

    if (at->bytes_total <= at->bytes || p->rate < 1.0)
        return;
    left = (double)(at->bytes_total - at->bytes) / p->rate;
    if (left < ETA_MAX_S)
        tarn_str_addf(out, "  ETA %s", tarn_format_duration((uint64_t)(left * 1e9), buf));
}

void progress_text(const struct progress *p, const struct progress_at *at, unsigned width,
                   uint64_t now_ns, struct tarn_str *out)
{
    char a[32], b[32], rate[32];

    tarn_str_addf(out, "%s  ", p->what);
    if (width > 0)
        progress_bar(at, TARN_MAX(TARN_MIN(width, BAR_MAX), BAR_MIN), out);
    tarn_str_addf(out, "%" PRIu64, at->files);
    if (at->files_total > 0)
        tarn_str_addf(out, "/%" PRIu64, at->files_total);
    tarn_str_addf(out, " files  %s", tarn_format_size(at->bytes, a));
    if (at->bytes_total > 0)
        tarn_str_addf(out, " of %s", tarn_format_size(at->bytes_total, b));
    tarn_str_addf(out, "  %s/s", tarn_format_size((uint64_t)p->rate, rate));
    progress_eta(p, at, out);
    if (at->failed > 0)
        tarn_str_addf(out, "  %" PRIu64 " FAILED", at->failed);
    if (width == 0 && at->waits)
        tarn_str_addf(out, "  waiting: %s", at->waits);
    if (width == 0)
        tarn_str_addf(out, "  after %s", tarn_format_duration(now_ns - p->start_ns, a));
}

static unsigned progress_columns(void)
{
    struct winsize w;

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

void progress_show(struct progress *p, const struct progress_at *at, uint64_t now_ns)
{
    struct tarn_str text = {0};
    unsigned columns;

    progress_feed(p, at, now_ns);
    if (p->quiet || now_ns - p->shown_ns < (p->terminal ? BAR_EVERY_NS : LINE_EVERY_NS))
        return;
    p->shown_ns = now_ns;
    if (p->terminal) {
        columns = progress_columns();
        progress_text(p, at, columns > 90 ? columns - 80 : BAR_MIN, now_ns, &text);
        /* The text is ASCII: a byte is a column. */
        (void)fprintf(stderr, "\r%.*s\033[K", (int)TARN_MIN(text.len, (size_t)columns - 1),
                      tarn_str_z(&text)); /* only progress */
        (void)fflush(stderr);
        p->drawn = true;
    } else {
        progress_text(p, at, 0, now_ns, &text);
        (void)fprintf(stderr, "%s\n", tarn_str_z(&text)); /* only progress */
    }
    tarn_str_fini(&text);
}

void progress_clear(struct progress *p)
{
    if (p->drawn)
        (void)fputs("\r\033[K", stderr); /* only progress */
    p->drawn = false;
}
