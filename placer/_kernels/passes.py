"""How numba compiles a kernel: by its own passes, without those that kernels have no use for.

Most of the time it takes to compile goes to numba's passes, which are written in Python. There are
passes for closures, ``with`` blocks, generators, array expressions and more that no kernel has.

A helper that prints, as to debug it, hangs: what Python objects it needs is not known where it is
linked into. Print from a kernel.
"""

from __future__ import annotations

from typing import Any

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (
    DeadBranchPrune,
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    ReconstructSSA,
    TranslateByteCode,
)


class KernelCompiler(CompilerBase):  # type: ignore[misc]
    """Compiles what Python calls."""

    lowering = NativeLowering

    def define_pipelines(self) -> list[PassManager]:
        """The passes in order, as the one way to compile."""
        passes = PassManager("kernel")
        for each in (
            TranslateByteCode,
            FixupArgs,
            IRProcessing,
            DeadBranchPrune,  # what is behind a comparison of an argument with None
            GenericRewrites,  # fields of records by name
            ReconstructSSA,
            NopythonTypeInference,
            PreLowerStripPhis,
            IRLegalization,
            self.lowering,
            NoPythonBackend,
        ):
            passes.add_pass(each, each.__name__)
        passes.finalize()
        return [passes]


class _Part(JITCodeLibrary):  # type: ignore[misc]
    """Code that is optimized, and turned into machine code, only where it is linked into."""

    def finalize(self) -> None:
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerHelper(NativeLowering):  # type: ignore[misc]
    """Makes code for linking."""

    _name = "lower_helper"

    def run_pass(self, state: Any) -> bool:
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        made = state.cr
        # compiled code finds a function by what Python would call, which here goes nowhere
        key = _dynfunc.make_function(
            made.fndesc.lookup_module(), state.func_id.func_name, "", 0, made.env, ()
        )
        state.targetctx.insert_user_function(key, made.fndesc, [state.library])
        state.cr = made._replace(cfunc=key)
        return True


class HelperCompiler(KernelCompiler):
    """Compiles what only compiled code calls: it is linked into that, and nothing by itself."""

    lowering = _LowerHelper
