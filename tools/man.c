/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/man.h"

#include "lib/base/str.h"
#include "tools/cli.h"

static void man_head(const char *name, const char *summary, struct tarn_str *out)
{
    tarn_str_addf(out, ".TH \"%s\" 1 \"\" \"tarn %s\" \"Tarn\"\n.SH NAME\n", name, TARN_VERSION);
    tarn_conf_man_text(name, out);
    tarn_str_adds(out, " \\- ");
    tarn_conf_man_text(summary, out);
    tarn_str_adds(out, "\n.SH SYNOPSIS\n");
}

static void man_tail(struct tarn_str *out)
{
    static const char text[] =
        ".SH ENVIRONMENT\nA flag \\-\\-some\\-flag may be given as TARN_SOME_FLAG too; the flag is "
        "stronger, a configuration file weaker.\n"
        ".SH EXIT STATUS\n"
        ".TP\n0\ndone\n.TP\n1\nfailed, or only partly done\n.TP\n2\nusage or configuration error\n"
        ".TP\n3\ncluster or store unreachable\n.TP\n4\ntimed out\n.TP\n5\npermission denied\n";

    tarn_str_adds(out, text);
}

static void man_program(struct tarn_str *out)
{
    const struct cli_command *cmd;

    man_head("tarn", "a cache in front of stores that are far away", out);
    tarn_str_adds(out, "\\fBtarn\\fR \\fICOMMAND\\fR [\\fIFLAGS\\fR] [\\fIARGUMENTS\\fR]\n"
                       ".SH COMMANDS\n");
    for (size_t i = 0; (cmd = cli_at(i)) != NULL; i++) {
        tarn_str_addf(out, ".TP\n\\fBtarn\\-%s\\fR(1)\n", cmd->name);
        tarn_conf_man_text(cmd->spec->summary, out);
        tarn_str_addc(out, '\n');
    }
}

static void man_command(const struct cli_command *cmd, struct tarn_str *out)
{
    const struct tarn_flags_spec *spec = cmd->spec;
    struct tarn_str name = {0};

    tarn_str_addf(&name, "tarn-%s", cmd->name);
    man_head(tarn_str_z(&name), spec->summary, out);
    tarn_str_fini(&name);
    tarn_str_addf(out, "\\fB%s\\fR [\\fIflags\\fR] ", spec->command);
    tarn_conf_man_text(spec->args, out);
    tarn_str_adds(out, "\n.SH DESCRIPTION\n");
    tarn_conf_man_text(spec->summary, out);
    tarn_str_addc(out, '\n');
    if (spec->text) { /* its lines are broken by hand */
        tarn_str_adds(out, ".PP\n.nf\n");
        tarn_conf_man_text(spec->text, out);
        tarn_str_adds(out, "\n.fi\n");
    }
    for (size_t i = 0; spec->tables[i]; i++) {
        tarn_str_adds(out, i ? ".SS " : ".SH OPTIONS\n.SS ");
        tarn_conf_man_text(spec->tables[i]->title, out);
        tarn_str_addc(out, '\n');
        tarn_conf_man(spec->tables[i], tarn_flags_letter, spec, out);
    }
    man_tail(out);
    tarn_str_adds(out, ".SH SEE ALSO\n\\fBtarn\\fR(1)\n");
}

void man_page(const struct cli_command *cmd, struct tarn_str *out)
{
    if (cmd) {
        man_command(cmd, out);
        return;
    }
    man_program(out);
    man_tail(out);
}
