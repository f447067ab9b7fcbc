// The program: finds the command, runs it, turns errors into exit codes.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "forge/commands.h"
#include "forge/recipe.h"

namespace bessemer {
namespace {

struct Entry {
  Command command;
  int (*run)(const Arguments&);
  bool hidden = false;  // of no use to people
};

std::vector<Entry> command_table() {
  return {
      {{"run",
        "RECIPE [a.b=c ...] | --resume DIR [a.b=c ...]",
        "train what a recipe says",
        {{"--dry-run", {}, "print the plan and stop"},
         {"--keys", {}, "print every key of a recipe, as Markdown, and stop"},
         {"--resume", "DIR", "go on with the run in DIR, bit for bit"},
         {"--fork", {}, "with --resume: a new run in out=NEW that starts from DIR's checkpoint"},
         {"--force", {}, "replace a run folder that exists"}},
        "  a.b=c sets a key of the recipe, as trainer.lr=1e-3 or out=runs/mine.\n"
        "  Ctrl-C stops at a checkpoint; a second one stops at once."},
       command_run},
      {{"eval",
        "DIR [a.b=c ...]",
        "judge the policy of a run or a checkpoint",
        {{"--episodes", "N", "how many; default: eval.episodes of its recipe"},
         {"--seed", "S", "of the first episode; default: eval.seed of its recipe"},
         {"--stochastic", {}, "draw actions instead of taking the most likely one"},
         {"--json", {}, "as one JSON object"}},
        "  a.b=c sets a key of env or eval, as env.options.digits=3 or eval.split=train.\n"
        "  A reward model is judged by held-out pairs, a run on a file by held-out examples."},
       command_eval},
      {{"render",
        "DIR | ENV_ID",
        "watch a run's policy, or an environment",
        {{"--human", {}, "in a window; ENV_ID: played with the arrow keys"},
         {"--video", "FILE", "one episode as MP4"},
         {"--png", "FILE", "one picture"},
         {"--step", "N", "with --png: after so many steps; default 60"},
         {"--seed", "S", "of the episode; default: eval.seed of the recipe, or 0"},
         {"--stochastic", {}, "draw actions instead of taking the most likely one"}},
        "  Without a choice: a window where there is a display, else a video.\n"
        "  An environment without a policy moves at random in videos and pictures."},
       command_render},
      {{"show",
        "DIR",
        "what a run's language model said, with rewards and log-probabilities",
        {{"--step", "N", "of this optimiser step; default: the last one kept"},
         {"--html", "FILE", "as a page; every step unless --step names one"}}},
       command_show},
#ifdef BESSEMER_HAS_TEXT
      {{"chat",
        "DIR",
        "talk to a run's language model, or to a folder of transformers",
        {{"--system", "TEXT", "a first turn that sets the scene"},
         {"--temperature", "T", "0, the default, takes the most likely token"},
         {"--top-k", "K", "of the K most likely tokens; default: all"},
         {"--top-p", "P", "of the most likely tokens with probability P together"},
         {"--max-tokens", "N", "of an answer; default 256"},
         {"--seed", "S", "of the draws"}},
        "  Turns come from the terminal or, one a line, from a pipe. Ctrl-C stops an answer, once\n"
        "  more leaves. A conversation that outgrows the model's context begins anew."},
       command_chat},
      {{"data",
        "show FILE.jsonl|RECIPE [a.b=c ...]",
        "what a language model is trained on, token by token",
        {{"--count", "N", "how many examples; default 5"}}},
       command_data},
#endif
      {{"doctor", "DIR", "why nothing is learned, in plain words; exit code 1 for a problem", {}},
       command_doctor},
      {{"env",
        "list | info ID|ADDRESS | serve [ID|FILE.py:CLASS ...] | conform ADDRESS | keys | "
        "control ADDRESS VERB",
        "the environments and what they are made of; serve them to other processes",
        {{"--json", {}, "as JSON"},
         {"--bind", "ADDRESS[,ADDRESS]",
          "serve: tcp://127.0.0.1:PORT or ipc://PATH; default: a free port"},
         {"--instances", "N", "serve: environments of all clients together"},
         {"--threads", "N", "serve: threads that step a batch"},
         {"--host-processes", "N", "serve: worker processes a session of a Python environment"},
         {"--host-deadline", "S", "serve: seconds that a step of a Python environment may take"},
         {"--host-memory", "MIB", "serve: memory of a worker process"},
         {"--keys", "DIR", "serve: the server's keys; info, control: the client's"},
         {"--token", "FILE", "control: the token that allows it"},
         {"--out", "DIR", "keys: where they go; default: keys"},
         {"--client", "NAME", "keys: whose they are; default: client"},
         {"--id", "ID", "conform: the environment to try"}},
        "  serve without ids serves every environment; SIGTERM lets clients finish.\n"
        "  conform holds a server against docs/protocol.md. keys makes what a server beyond this\n"
        "  machine needs. control: sessions, drain, stop, close CLIENT, limits."},
       command_env},
#ifdef BESSEMER_HAS_WIRE
      {{"worker", "ADDRESS NAME", "works for a run", {}}, command_worker, true},
#endif
  };
}

int dispatch(std::span<const std::string> words) {
  const std::vector<Entry> table = command_table();
  std::vector<Command> commands;
  for (const Entry& entry : table)
    if (!entry.hidden) commands.push_back(entry.command);
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    std::fputs(program_help(commands).c_str(), words.empty() ? stderr : stdout);
    return words.empty() ? kExitUsage : kExitOk;
  }
  if (words[0] == "--version") {
    std::puts("bessemer " BESSEMER_VERSION);
    return kExitOk;
  }
  for (const Entry& entry : table) {
    if (entry.command.name != words[0]) continue;
    for (const std::string& word : words.subspan(1)) {
      if (word == "--help" || word == "-h") {
        std::fputs(command_help(entry.command).c_str(), stdout);
        return kExitOk;
      }
    }
    try {
      return entry.run(parse_arguments(entry.command, words.subspan(1)));
    } catch (const UsageError& error) {
      std::fprintf(stderr, "%s\nusage: bessemer %s %s\n", error.what(), words[0].c_str(),
                   std::string(entry.command.usage).c_str());
      return kExitUsage;
    }
  }
  std::vector<std::string> names{"--help", "--version"};
  for (const Command& command : commands) names.emplace_back(command.name);
  std::fprintf(stderr, "unknown command '%s'%s\n", words[0].c_str(),
               did_you_mean(words[0], names).c_str());
  return kExitUsage;
}

/// What was printed may not have arrived: a full disk behind `> FILE` would go unnoticed.
int flushed(int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  std::fprintf(stderr, "error: cannot write the output: %s\n", std::strerror(errno));
  return code == kExitOk ? kExitFailure : code;
}

int run_program(int argc, char** argv) {
  try {
    const std::vector<std::string> words(argv + 1, argv + argc);
    return flushed(dispatch(words));
  } catch (const RecipeError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return kExitUsage;
  } catch (const std::bad_alloc&) {
    std::fputs("out of memory\n", stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  }
  return kExitFailure;
}

}  // namespace
}  // namespace bessemer

int main(int argc, char** argv) {
  // a file that may not grow is an error of write(), told with its path, not the end of the process
  std::signal(SIGXFSZ, SIG_IGN);
  return bessemer::run_program(argc, argv);
}
