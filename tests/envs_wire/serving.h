// A server of environments on a thread of the test.
#pragma once

#include <string>
#include <thread>

#include "envs/server/env_service.h"

namespace bessemer {

struct Serving {
  EnvService service;
  wire::Server server;
  std::string address;
  std::thread thread;
  explicit Serving(const ServeOptions& options = {}, const std::string& where = "tcp://127.0.0.1:*")
      : service(options),
        server(service, options.wire),
        address(server.bind(where)),
        thread([this] { server.run(); }) {
    service.attach(server);
  }
  ~Serving() {
    server.stop();
    thread.join();
  }
};

}  // namespace bessemer
