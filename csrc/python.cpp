// fastvision._C: what Python needs besides the operators, which it finds in torch.ops.fastvision.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/libraries.h"
#include "core/memory.h"
#include "machine/machine.h"
#include "prepared_call.h"
#include "unchanged.h"

namespace py = pybind11;

namespace fastvision {
namespace {

const MachineKernels& machine_kernels_in_use() {
  const KernelLibrary& library = cpu_library();
  if (!library.machine) throw std::runtime_error(std::string("fastvision: no peaks to measure on ") + library.name);
  return *library.machine;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("cpu_capability", [] { return std::string(cpu_library().name); });
  m.def("set_cpu_capability", &set_cpu_capability);
  m.def("available_cpu_capabilities", &available_cpu_capabilities);
  m.def("has_cuda_kernels", [] { return cuda_library() != nullptr; });
  m.def("prepare_call", &prepare_call);
  m.def("prepare_module_call", &prepare_module_call);
  m.def("prepare_sequence", &prepare_sequence);
  m.def("prepare_recurrent_call",
        [](const OperatorName& name, const py::tuple& names, const py::dict& options, const py::dict& attributes,
           const py::tuple& absent, int64_t states, int64_t layers, int64_t input_size, int64_t hidden_size,
           int64_t batch_dim, const py::function& otherwise) {
          return prepare_recurrent_call(name, names, options, attributes, absent,
                                        {states, layers, input_size, hidden_size, batch_dim}, otherwise);
        });
  m.def("unchanged", &unchanged);
  m.def("kernels_enabled", &kernels_enabled);
  m.def("set_kernels_enabled", &set_kernels_enabled);
  m.def("winograd_allowed", &winograd_allowed);
  m.def("set_winograd_allowed", &set_winograd_allowed);
  m.def("cached_bytes", &cached_bytes);
  m.def("max_cached_bytes", &max_cached_bytes);
  m.def("set_max_cached_bytes", &set_max_cached_bytes);
  m.def("empty_cache", &empty_cache);
  const py::call_guard<py::gil_scoped_release> without_gil;
  m.def("measure_fma_peak", [](double seconds) { return machine_kernels_in_use().fma_peak(seconds); }, without_gil);
  m.def(
      "measure_read_bandwidth",
      [](int64_t bytes, double seconds) { return machine_kernels_in_use().read_bandwidth(bytes, seconds); },
      without_gil);
}

}  // namespace fastvision
