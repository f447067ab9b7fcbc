// Keys and tokens: who may connect, who may act, who may control.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>

#include "envs/client/remote_batch.h"
#include "tests/envs_wire/serving.h"

using namespace bessemer;

namespace {

/// A folder that goes with the test.
struct Folder {
  std::string path;
  Folder() {
    char name[] = "/tmp/bessemer-keys-XXXXXX";
    path = mkdtemp(name);
  }
  ~Folder() {
    for (const char* file :
         {"server.key", "client.key", "other.key", "act.token", "control.token"}) {
      unlink(cat(path, '/', file).c_str());
    }
    rmdir(path.c_str());
  }
  std::string operator/(const char* name) const { return cat(path, '/', name); }
};

ServeOptions guarded(const Folder& folder) {
  ServeOptions options;
  options.ids = {"CartPole-v1"};
  options.wire.socket.keys = wire::read_server_keys(folder.path);
  options.tokens = wire::read_tokens(folder.path);
  return options;
}

RemoteOptions with(const std::string& keys, const std::string& token) {
  RemoteOptions remote;
  read_credentials(keys, token, remote);
  remote.wire.deadline = 20;
  return remote;
}

/// The code and text of the refusal; `internal` where there is none.
std::pair<wire::Code, std::string> refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const wire::WireError& error) {
    return {error.code(), error.what()};
  }
  return {wire::Code::internal, ""};
}

void replace_line(const std::string& file, const std::string& begin, const std::string& line) {
  std::ifstream in(file);
  std::string text, each;
  while (std::getline(in, each)) text += (each.starts_with(begin) ? line : each) + "\n";
  in.close();
  std::ofstream(file) << text;
}

}  // namespace

TEST_CASE("keys: files are private, whole, and never replaced") {
  if (!wire::curve_available()) return;
  const Folder folder;
  CHECK_EQ(wire::make_keys(folder.path, "client").size(), 4);
  for (const char* name : {"server.key", "client.key", "act.token", "control.token"}) {
    struct stat found {};
    REQUIRE_EQ(stat((folder / name).c_str(), &found), 0);
    CHECK_EQ(found.st_mode & 0777, 0600);
  }
  CHECK_THROWS_AS(wire::make_keys(folder.path, "client"), ValueError);
  CHECK_THROWS_AS(wire::make_keys(folder.path, "../evil"), ValueError);
  CHECK_EQ(wire::make_keys(folder.path, "other").size(), 1);
  const wire::Keys server = wire::read_server_keys(folder.path);
  REQUIRE_EQ(server->clients.size(), 2);
  CHECK_EQ(server->clients[1].first, "other");
  CHECK_EQ(wire::read_client_keys(folder / "other.key")->public_key, server->clients[1].second);
  CHECK_EQ(wire::read_client_keys(folder.path)->server, server->public_key);
  CHECK_THROWS_AS(wire::read_client_keys(folder / "server.key"), ValueError);
  CHECK_THROWS_AS(wire::read_server_keys(folder / "missing"), IoError);
  CHECK_THROWS_AS(wire::read_token(folder / "server.key"), ValueError);
  chmod((folder / "client.key").c_str(), 0644);
  CHECK_THROWS_WITH_AS(
      wire::read_client_keys(folder.path),
      cat("[keys] others may read ", folder / "client.key", ": chmod 600 it").c_str(), IoError);
  chmod((folder / "client.key").c_str(), 0600);
  replace_line(folder / "client.key", "secret", "secret nonsense");
  CHECK_THROWS_AS(wire::read_client_keys(folder.path), ValueError);
}

TEST_CASE("keys: beyond this machine a server needs them, and steps go through") {
  if (!wire::curve_available()) return;
  CHECK_THROWS_AS(Serving({}, "tcp://0.0.0.0:*"), ValueError);
  const Folder folder;
  wire::make_keys(folder.path, "client");
  const Serving serving(guarded(folder), "tcp://0.0.0.0:*");
  const std::string address =
      cat("tcp://127.0.0.1", serving.address.substr(serving.address.rfind(':')));
  for (const char* token : {"act.token", "control.token"}) {
    const auto remote = with(folder.path, folder / token);
    const auto there = connect_batch(address, "CartPole-v1", {}, remote);
    const auto here = make_batch("CartPole-v1", {});
    std::vector<float> a(4), b(4);
    StepBuffers to_a, to_b;
    to_a.obs = {a.data()};
    to_b.obs = {b.data()};
    const uint64_t seed = 5;
    here->reset({&seed, 1}, {}, {}, to_a);
    there->reset({&seed, 1}, {}, {}, to_b);
    for (int64_t i = 0; i < 30; ++i) {
      const int64_t action = i & 1;
      here->step({&action, nullptr}, to_a);
      there->step({&action, nullptr}, to_b);
      CHECK_EQ(a, b);
    }
  }
  CHECK_EQ(server_info(address, 20, wire::read_client_keys(folder.path)).text("service"), "env");
}

TEST_CASE("keys: a wrong key, no key, a wrong token and none are told apart, in time") {
  if (!wire::curve_available()) return;
  const Folder folder, strange;
  wire::make_keys(folder.path, "client");
  wire::make_keys(strange.path, "client");
  const Serving serving(guarded(folder));
  const auto connect = [&](const RemoteOptions& remote) {
    return refusal([&] { connect_batch(serving.address, "CartPole-v1", {}, remote); });
  };
  const auto [none, none_text] = connect(with("", folder / "act.token"));
  CHECK_EQ(none, wire::Code::denied);
  CHECK_NE(none_text.find("asks for keys"), std::string::npos);
  // Another server's keys altogether: this server cannot be the one that they expect.
  const auto [other, other_text] = connect(with(strange.path, folder / "act.token"));
  CHECK_EQ(other, wire::Code::denied);
  CHECK_NE(other_text.find("another one than this client expects"), std::string::npos);
  // This server's public key, but a client that it was never told of.
  const std::string server_key = wire::read_server_keys(folder.path)->public_key;
  replace_line(strange / "client.key", "server", "server " + server_key);
  const auto [unknown, unknown_text] = connect(with(strange.path, folder / "act.token"));
  CHECK_EQ(unknown, wire::Code::denied);
  CHECK_NE(unknown_text.find("does not know this client's key"), std::string::npos);
  for (const std::string& token : {strange / "act.token", std::string()}) {
    const auto [code, text] = connect(with(folder.path, token));
    CHECK_EQ(code, wire::Code::denied);
    CHECK_NE(text.find("token"), std::string::npos);
  }
  const auto [info, info_text] = refusal([&] { server_info(serving.address, 20); });
  CHECK_EQ(info, wire::Code::denied);
  // A client with keys where none are used.
  const Serving open({.ids = {"CartPole-v1"}});
  const auto [plain, plain_text] =
      refusal([&] { connect_batch(open.address, "CartPole-v1", {}, with(folder.path, "")); });
  CHECK_EQ(plain, wire::Code::denied);
  CHECK_NE(plain_text.find("uses no keys"), std::string::npos);
}

TEST_CASE("keys: control lists, limits, closes and drains, with its own token") {
  if (!wire::curve_available()) return;
  const Folder folder;
  wire::make_keys(folder.path, "client");
  Serving serving(guarded(folder));
  const wire::Keys keys = wire::read_client_keys(folder.path);
  const auto control = [&](const std::string& verb, wire::Map fields, const char* token) {
    if (token) fields.set("token", wire::read_token(folder / token));
    return server_control(serving.address, verb, std::move(fields), keys, 20);
  };
  const auto all = "control.token";
  for (const char* token : {"act.token", static_cast<const char*>(nullptr)}) {
    CHECK_EQ(refusal([&] { control("drain", {}, token); }).first, wire::Code::denied);
  }
  RemoteOptions remote = with(folder.path, folder / "act.token");
  remote.reconnect = 0;
  BatchOptions three;
  three.num_envs = 3;
  const auto batch = connect_batch(serving.address, "CartPole-v1", three, remote);
  StepBuffers nothing;
  batch->reset(std::vector<uint64_t>{1, 2, 3}, {}, {}, nothing);
  const int64_t actions[] = {0, 1, 0};
  batch->step({actions, nullptr}, nothing);
  const wire::List sessions = control("sessions", {}, all).list("sessions");
  REQUIRE_EQ(sessions.size(), 1);
  const wire::Map& one = sessions[0].map("session");
  CHECK_EQ(one.text("env"), "CartPole-v1");
  CHECK_EQ(one.integer("num_envs"), 3);
  CHECK_EQ(one.integer("steps"), 3);
  CHECK_EQ(control("limits", {{"instances", 4}}, all).integer("instances"), 4);
  CHECK_EQ(refusal([&] { connect_batch(serving.address, "CartPole-v1", three, remote); }).first,
           wire::Code::capacity);
  CHECK_THROWS_AS(control("limits", {{"instances", 0}}, all), ValueError);
  CHECK_THROWS_AS(control("drian", {}, all), ValueError);
  CHECK_THROWS_AS(control("close", {{"client", "nobody"}}, all), ValueError);
  control("close", {{"client", one.text("client")}}, all);
  CHECK_EQ(refusal([&] {
             batch->step({actions, nullptr}, nothing);
           }).first,
           wire::Code::no_session);
  control("drain", {{"seconds", 20}}, all);
  serving.thread.join();  // nobody is left: it ends
  serving.thread = std::thread([] {});
}
