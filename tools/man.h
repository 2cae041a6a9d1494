/* SPDX-License-Identifier: Apache-2.0 */
/* tools/man.h — manual pages, made of the tables that the commands read their flags by. */
#pragma once

struct cli_command;
struct tarn_str;

/* The page of a command, or with NULL that of the program: for man(1) and man(7). */
void man_page(const struct cli_command *cmd, struct tarn_str *out);
