// The commands of the program, one function each; they print to stdout and return the exit code.
#pragma once

#include "forge/arguments.h"

namespace bessemer {

constexpr int kExitOk = 0;
constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr int kExitInterrupted = 130;

int command_run(const Arguments& arguments);
int command_eval(const Arguments& arguments);
int command_render(const Arguments& arguments);
int command_env(const Arguments& arguments);
int command_show(const Arguments& arguments);
int command_chat(const Arguments& arguments);
int command_data(const Arguments& arguments);
int command_doctor(const Arguments& arguments);
int command_worker(const Arguments& arguments);  // needs the wire feature

/// stdout is a terminal and NO_COLOR (no-color.org) is not set.
bool colour_wanted();

// Verbs of `env` that need the wire feature (command_wire.cpp).
int serve_command(const Arguments& arguments, std::span<const std::string> ids);
int remote_info_command(const Arguments& arguments, const std::string& address);
int conform_command(const Arguments& arguments, const std::string& address);
int keys_command(const Arguments& arguments);
/// `words`: address, verb, and what the verb concerns.
int control_command(const Arguments& arguments, std::span<const std::string> words);

}  // namespace bessemer
