/* SPDX-License-Identifier: Apache-2.0 */
/* tools/completion.h — what shells need to complete tarn's command line. */
#pragma once

struct tarn_str;

void completion_bash(struct tarn_str *out);
