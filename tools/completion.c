/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The completion script for bash, made of the tables: commands, then the flags of the command on
 * the line. Where no flag is being written the shell completes files.
 */
#include "tools/completion.h"

#include "lib/base/str.h"
#include "tools/cli.h"

static void completion_flags(const struct cli_command *cmd, struct tarn_str *out)
{
    char key[64];

    for (size_t t = 0; cmd->spec->tables[t]; t++) {
        const struct tarn_conf_table *table = cmd->spec->tables[t];

        for (size_t i = 0; i < table->n; i++) {
            const struct tarn_conf_param *p = &table->params[i];

            if (!(p->flags & (TARN_CONF_F_HIDDEN | TARN_CONF_F_SECRET)))
                tarn_str_addf(out, "--%s ", tarn_conf_key(p, key));
        }
    }
    tarn_str_adds(out, "--help");
}

void completion_bash(struct tarn_str *out)
{
    const struct cli_command *cmd;

    tarn_str_adds(
        out, "# bash completion of tarn: tarn help --completion bash >/etc/bash_completion.d/tarn\n"
             "_tarn()\n{\n"
             "    local cur=${COMP_WORDS[COMP_CWORD]} words\n"
             "    COMPREPLY=()\n"
             "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
             "        words=\"");
    for (size_t i = 0; (cmd = cli_at(i)) != NULL; i++)
        tarn_str_addf(out, "%s%s", i ? " " : "", cmd->name);
    tarn_str_adds(out, "\"\n    elif [[ $cur == -* ]]; then\n        case ${COMP_WORDS[1]} in\n");
    for (size_t i = 0; (cmd = cli_at(i)) != NULL; i++) {
        tarn_str_addf(out, "        %s) words=\"", cmd->name);
        completion_flags(cmd, out);
        tarn_str_adds(out, "\" ;;\n");
    }
    tarn_str_adds(out,
                  "        esac\n"
                  "    elif [ \"${COMP_WORDS[1]}\" = job ] && [ \"$COMP_CWORD\" -eq 2 ]; then\n"
                  "        words=\"ls show wait cancel retry manifest\"\n"
                  "    elif [ \"${COMP_WORDS[1]}\" = worker ] && [ \"$COMP_CWORD\" -eq 2 ]; then\n"
                  "        words=\"ls drain remove\"\n"
                  "    elif [ \"${COMP_WORDS[1]}\" = master ] && [ \"$COMP_CWORD\" -eq 2 ]; then\n"
                  "        words=\"ls\"\n"
                  "    elif [ \"${COMP_WORDS[1]}\" = help ]; then\n"
                  "        words=\"");
    for (size_t i = 0; (cmd = cli_at(i)) != NULL; i++)
        tarn_str_addf(out, "%s%s", i ? " " : "", cmd->name);
    tarn_str_adds(out, "\"\n    fi\n"
                       "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                       "}\n"
                       "complete -o default -F _tarn tarn\n");
}
