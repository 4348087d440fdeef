#include "core/libraries.h"

#include <ATen/Context.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>

namespace fastvision {
namespace {

bool processor_supports(const std::string& capability) {
  if (capability == "avx512") {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
  }
  if (capability == "avx2") {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  }
  return true;
}

std::filesystem::path directory_of_this_library() {
  Dl_info info;
  TORCH_CHECK(dladdr(reinterpret_cast<void*>(&processor_supports), &info), "fastvision: dladdr failed: ", dlerror());
  return std::filesystem::absolute(info.dli_fname).parent_path();
}

std::filesystem::path file_of(const std::string& stem) {
  return directory_of_this_library() / ("_" + stem + ".so");
}

const KernelLibrary* open_library(const std::filesystem::path& file) {
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(handle, "fastvision: cannot open the kernel library ", file.string(), ": ", dlerror());
  auto* get = reinterpret_cast<decltype(&fastvision_kernel_library)>(dlsym(handle, "fastvision_kernel_library"));
  TORCH_CHECK(get, "fastvision: ", file.string(), " is not a kernel library: ", dlerror());
  const KernelLibrary* library = get();
  TORCH_CHECK(library->interface_version == KernelLibrary::kInterfaceVersion, "fastvision: ", file.string(),
              " was built for interface ", library->interface_version, ", expected ", KernelLibrary::kInterfaceVersion,
              "; rebuild fastvision");
  return library;
}

// "emulated" executes the CUDA kernels on the CPU; it exists in development builds only.
std::string stem_of(const std::string& capability) {
  return capability == "emulated" ? capability : "cpu_" + capability;
}

bool is_available(const std::string& capability) {
  return processor_supports(capability) && std::filesystem::exists(file_of(stem_of(capability)));
}

const KernelLibrary* open_cpu_library(const std::string& capability) {
  static std::mutex mutex;
  static std::map<std::string, const KernelLibrary*> opened;
  const auto available = available_cpu_capabilities();
  std::string names;
  for (const auto& name : available) names += (names.empty() ? "" : ", ") + name;
  TORCH_CHECK_VALUE(std::find(available.begin(), available.end(), capability) != available.end(),
                    "fastvision: CPU capability: expected one of ", names, ", got '", capability, "'");
  std::lock_guard<std::mutex> lock(mutex);
  const KernelLibrary*& library = opened[capability];
  if (!library) library = open_library(file_of(stem_of(capability)));
  return library;
}

const KernelLibrary* choose_cpu_library() {
  if (const char* name = std::getenv("FASTVISION_CPU_CAPABILITY"); name && *name) return open_cpu_library(name);
  const auto available = available_cpu_capabilities();
  TORCH_CHECK(!available.empty(), "fastvision: no CPU kernel library beside ", directory_of_this_library().string(),
              "; rebuild fastvision");
  return open_cpu_library(available.front());
}

std::atomic<const KernelLibrary*>& cpu_library_in_use() {
  static std::atomic<const KernelLibrary*> library{choose_cpu_library()};
  return library;
}

std::atomic<bool> enabled{true};
std::atomic<bool> allow_winograd{true};

}  // namespace

const KernelLibrary& cpu_library() {
  return *cpu_library_in_use().load(std::memory_order_acquire);
}

const KernelLibrary* cuda_library() {
  static const KernelLibrary* library = [] {
    const auto file = file_of("cuda");
    return at::hasCUDA() && std::filesystem::exists(file) ? open_library(file) : nullptr;
  }();
  return library;
}

std::vector<std::string> available_cpu_capabilities() {
  std::vector<std::string> names;
  for (const char* name : {"avx512", "avx2", "default", "emulated"}) {
    if (is_available(name)) names.emplace_back(name);
  }
  return names;
}

void set_cpu_capability(const std::string& name) {
  cpu_library_in_use().store(open_cpu_library(name), std::memory_order_release);
}

bool kernels_enabled() {
  return enabled.load(std::memory_order_relaxed);
}
void set_kernels_enabled(bool value) {
  enabled.store(value, std::memory_order_relaxed);
}

bool winograd_allowed() {
  return allow_winograd.load(std::memory_order_relaxed);
}
void set_winograd_allowed(bool value) {
  allow_winograd.store(value, std::memory_order_relaxed);
}

}  // namespace fastvision
