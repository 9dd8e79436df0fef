# The tests. Each is one program or script, known to ctest as LEVEL.NAME with LEVEL as its label.
# A test that cannot run here exits with 77 and says why: ctest counts it as skipped.
# CMakeLists.txt has found cmocka and python3.

# imgcls_program(TARGET SOURCE...): a cmocka program, built once.
function(imgcls_program TARGET)
  if(NOT TARGET ${TARGET})
    add_executable(${TARGET} ${ARGN})
    target_include_directories(${TARGET} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
    target_link_libraries(${TARGET} PRIVATE imgcls_core PkgConfig::CMOCKA m)
  endif()
endfunction()

# imgcls_test(LEVEL NAME [RANKS N] SOURCE...): a cmocka program; with RANKS it runs under mpirun.
function(imgcls_test LEVEL NAME)
  cmake_parse_arguments(TEST "" "RANKS;TIMEOUT" "LIBRARIES;ARGUMENTS" ${ARGN})
  set(target test_${LEVEL}_${NAME})
  imgcls_program(${target} ${TEST_UNPARSED_ARGUMENTS})
  target_link_libraries(${target} PRIVATE ${TEST_LIBRARIES})
  set(test ${LEVEL}.${NAME})
  set(command $<TARGET_FILE:${target}>)
  if(TEST_RANKS)
    string(APPEND test .np${TEST_RANKS})
    set(command ${MPIEXEC_EXECUTABLE} --oversubscribe --bind-to none -np ${TEST_RANKS} ${command})
  endif()
  add_test(NAME ${test} COMMAND ${command} ${TEST_ARGUMENTS})
  set_tests_properties(${test} PROPERTIES
    LABELS ${LEVEL} SKIP_RETURN_CODE 77 TIMEOUT $<IF:$<BOOL:${TEST_TIMEOUT}>,${TEST_TIMEOUT},120>)
endfunction()

# imgcls_skipped_test(NAME LEVEL REASON): in place of a test that this build leaves out.
function(imgcls_skipped_test NAME LEVEL REASON)
  add_test(NAME ${NAME} COMMAND sh -c "echo ${REASON}; exit 77")
  set_tests_properties(${NAME} PROPERTIES LABELS "${LEVEL}" SKIP_RETURN_CODE 77)
endfunction()

set(IMGCLS_KERAS_PYTHON ${CMAKE_SOURCE_DIR}/build/keras/bin/python CACHE FILEPATH
  "Python with tensorflow-cpu, keras and tf-keras, for the tests against Keras")

# imgcls_keras_test(NAME SCRIPT ARGUMENT...): a Python script run where Keras is installed.
function(imgcls_keras_test NAME SCRIPT)
  add_test(NAME keras.${NAME} COMMAND ${CMAKE_SOURCE_DIR}/tests/keras/run.sh
    ${IMGCLS_KERAS_PYTHON} ${CMAKE_SOURCE_DIR}/${SCRIPT} ${ARGN})
  set_tests_properties(keras.${NAME} PROPERTIES LABELS keras SKIP_RETURN_CODE 77 TIMEOUT 300)
endfunction()

# --- base -----------------------------------------------------------------------------------------
imgcls_test(unit base tests/unit/test_base.c)

add_test(NAME unit.layers COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/unit/check_layers.py
  ${CMAKE_SOURCE_DIR} ${CMAKE_C_COMPILER} ${HDF5_INCLUDE_DIRS} ${CUDA_INCLUDE_DIR})
set_tests_properties(unit.layers PROPERTIES LABELS unit TIMEOUT 120)

# How configuring goes, with cmocka and without.
add_test(NAME unit.configure COMMAND ${CMAKE_SOURCE_DIR}/tests/unit/test_configure.sh
  ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR} ${CMAKE_COMMAND} ${PKG_CONFIG_EXECUTABLE})
set_tests_properties(unit.configure PROPERTIES LABELS unit TIMEOUT 300)
add_test(NAME unit.gpu_goals COMMAND ${CMAKE_SOURCE_DIR}/tests/gpu/test_goals.sh ${CMAKE_SOURCE_DIR})
set_tests_properties(unit.gpu_goals PROPERTIES LABELS unit TIMEOUT 60)
add_test(NAME unit.install COMMAND ${CMAKE_SOURCE_DIR}/tests/unit/test_install.sh ${CMAKE_BINARY_DIR})
set_tests_properties(unit.install PROPERTIES LABELS unit TIMEOUT 60)

# --- config ---------------------------------------------------------------------------------------
imgcls_test(unit config tests/unit/test_config.c)
imgcls_test(unit config_hostile tests/unit/test_config_hostile.c)

add_executable(write_config_docs tests/tools/write_config_docs.c)
target_link_libraries(write_config_docs PRIVATE imgcls_core)
add_custom_target(config_docs
  COMMAND write_config_docs markdown > ${CMAKE_SOURCE_DIR}/docs/config.md
  COMMAND write_config_docs man > ${CMAKE_SOURCE_DIR}/docs/imgcls-train.ini.5
  COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/tools/write_tool_manual.py $<TARGET_FILE:imgcls>
    > ${CMAKE_SOURCE_DIR}/docs/imgcls.1
  VERBATIM)
add_test(NAME unit.config_docs
  COMMAND ${CMAKE_SOURCE_DIR}/tests/unit/test_config_docs.sh ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
set_tests_properties(unit.config_docs PROPERTIES LABELS unit TIMEOUT 60)

# --- io -------------------------------------------------------------------------------------------
imgcls_test(unit file tests/unit/test_file.c)
imgcls_test(unit tfrecord tests/unit/test_tfrecord.c)
imgcls_test(unit tensor_file tests/unit/test_tensor_file.c)
imgcls_test(unit image tests/unit/test_image.c tests/unit/image_samples.c
  LIBRARIES PkgConfig::JPEG PkgConfig::SPNG Threads::Threads)
add_executable(decode_dump tests/keras/decode_dump.c)
target_link_libraries(decode_dump PRIVATE imgcls_core)
imgcls_keras_test(decode tests/keras/decode.py $<TARGET_FILE:decode_dump>)

# --- graph and model ------------------------------------------------------------------------------
imgcls_test(unit graph tests/unit/test_graph.c)
imgcls_test(unit model tests/unit/test_model.c)
add_test(NAME unit.models_tool COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/unit/test_models_tool.py
  $<TARGET_FILE:imgcls>)
set_tests_properties(unit.models_tool PROPERTIES LABELS unit TIMEOUT 120)
imgcls_test(unit pretrained tests/unit/test_pretrained.c)
imgcls_keras_test(model tests/keras/model_check.py $<TARGET_FILE:imgcls> mobilenet_v2_100_224
  mobilenet_v3_small_100_224 MobileNetV3Large NASNetMobile ResNet50 efficientnet_b0 efficientnetv2-b0)
imgcls_keras_test(every_model tests/keras/model_check.py $<TARGET_FILE:imgcls> all)
set_tests_properties(keras.every_model PROPERTIES LABELS "keras;nightly")
if(IMGCLS_SANITIZE)
  imgcls_skipped_test(unit.models_memory unit "sanitizers take memory of their own")
else()
  add_test(NAME unit.models_memory
    COMMAND ${CMAKE_SOURCE_DIR}/tests/unit/test_models_memory.sh $<TARGET_FILE:imgcls>)
  set_tests_properties(unit.models_memory PROPERTIES LABELS unit TIMEOUT 120)
endif()

# --- keras ----------------------------------------------------------------------------------------
imgcls_test(unit h5 tests/unit/test_h5.c LIBRARIES PkgConfig::HDF5)
imgcls_test(unit keras tests/unit/test_keras.c tests/keras/every_layer.c)
add_executable(h5_bridge tests/keras/h5_bridge.c tests/keras/every_layer.c)
target_link_libraries(h5_bridge PRIVATE imgcls_core)
add_test(NAME unit.h5_tool COMMAND ${CMAKE_SOURCE_DIR}/tests/keras/h5_tool.sh
  $<TARGET_FILE:imgcls> $<TARGET_FILE:h5_bridge> ${CMAKE_BINARY_DIR}/h5_tool)
set_tests_properties(unit.h5_tool PROPERTIES LABELS unit TIMEOUT 60)
foreach(generation k2 k3)
  imgcls_keras_test(h5_load_${generation} tests/keras/h5_load_check.py
    ${generation} $<TARGET_FILE:h5_bridge> ${CMAKE_BINARY_DIR}/keras_load_${generation})
  imgcls_keras_test(h5_write_${generation} tests/keras/h5_write_check.py
    ${generation} $<TARGET_FILE:h5_bridge> ${CMAKE_BINARY_DIR}/keras_write_${generation}
    $<TARGET_FILE:imgcls>)
endforeach()
# imgcls_backbone_test(CHECK BACKBONE...): in both generations of Keras; named after the first.
function(imgcls_backbone_test CHECK BACKBONE)
  set(test ${CHECK}.${BACKBONE})
  imgcls_keras_test(${test} tests/keras/${CHECK}_check.py
    $<TARGET_FILE:imgcls-train> $<TARGET_FILE:imgcls> $<TARGET_FILE:h5_bridge>
    ${CMAKE_BINARY_DIR}/keras_${test} ${BACKBONE} ${ARGN})
endfunction()
foreach(backbone mobilenet_v2_100_224 ResNet50 efficientnet_b0 efficientnetv2-b0)
  imgcls_backbone_test(pretrained ${backbone})
endforeach()
imgcls_backbone_test(pretrained brief ResNet50V2 MobileNetV3Small)
foreach(backbone ResNet50 efficientnet_b0 efficientnetv2-b0 brief)
  set_tests_properties(keras.pretrained.${backbone} PROPERTIES LABELS "keras;nightly")
endforeach()
foreach(backbone MobileNetV3Large NASNetMobile InceptionV3 InceptionResNetV2 EfficientNetV2S)
  imgcls_keras_test(pretrained.${backbone} tests/keras/pretrained_check.py
    $<TARGET_FILE:imgcls-train> $<TARGET_FILE:imgcls> $<TARGET_FILE:h5_bridge>
    ${CMAKE_BINARY_DIR}/keras_pretrained_${backbone} brief ${backbone})
  set_tests_properties(keras.pretrained.${backbone} PROPERTIES LABELS "keras;nightly" TIMEOUT 900)
endforeach()
# Whole models: those that bring every kind of layer, and nightly each graph that a name has
# (oracle_names.py).
set(whole_models mobilenet_v2_100_224 mobilenet_v3_small_100_224 ResNet50 bit_s-r50x1
  efficientnet_b0 efficientnetv2-b0)
foreach(backbone ${whole_models})
  imgcls_backbone_test(whole_model ${backbone})
endforeach()
execute_process(COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/backbone/oracle_names.py
  OUTPUT_VARIABLE backbones OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE ";" " " backbones "${backbones}")
string(REPLACE "\n" ";" backbones "${backbones}")
foreach(backbone ${backbones})
  separate_arguments(backbone)
  list(GET backbone 0 name)
  if(NOT name IN_LIST whole_models)
    imgcls_backbone_test(whole_model ${name})
    set_tests_properties(keras.whole_model.${name} PROPERTIES LABELS "keras;nightly" TIMEOUT 3600)
  endif()
endforeach()

# --- weights of torch -----------------------------------------------------------------------------
set(IMGCLS_TORCH_PYTHON ${CMAKE_SOURCE_DIR}/build/torch/bin/python CACHE FILEPATH
  "Python with torch, torchvision, timm and h5py, for the tests against them")
add_executable(torch_bridge tests/torch/torch_bridge.c)
target_link_libraries(torch_bridge PRIVATE imgcls_core)
# imgcls_torch_test(NAME LABEL BACKBONE...)
function(imgcls_torch_test NAME LABEL)
  add_test(NAME torch.${NAME} COMMAND ${CMAKE_SOURCE_DIR}/tests/keras/run.sh ${IMGCLS_TORCH_PYTHON}
    ${CMAKE_SOURCE_DIR}/tests/torch/torch_check.py $<TARGET_FILE:imgcls-train>
    $<TARGET_FILE:torch_bridge> ${CMAKE_BINARY_DIR}/torch_${NAME} ${ARGN})
  set_tests_properties(torch.${NAME} PROPERTIES LABELS "keras;${LABEL}" SKIP_RETURN_CODE 77
    TIMEOUT 600)
endfunction()
imgcls_torch_test(weights torch mobilenet_v3_small_075_224 resnet50_v1_5 efficientnetv2-b0
  bit_s-r50x1)
imgcls_torch_test(more_weights nightly efficientnetv2-s efficientnet_b0 mobilenet_v3_large_100_224
  inception_v3 inception_resnet_v2)
imgcls_torch_test(large_weights nightly nasnet_large pnasnet_large)

# --- backend --------------------------------------------------------------------------------------
# imgcls_isa_tests(LEVEL NAME SOURCE...): a cmocka program under each instruction set of the CPU
# backend: without a name for one, a run takes the best of them.
function(imgcls_isa_tests LEVEL NAME)
  imgcls_program(test_${LEVEL}_${NAME} ${ARGN})
  foreach(isa baseline avx2 avx512 avx512_bf16)
    set(test ${LEVEL}.${NAME}.${isa})
    add_test(NAME ${test} COMMAND test_${LEVEL}_${NAME})
    set_tests_properties(${test} PROPERTIES
      LABELS ${LEVEL} SKIP_RETURN_CODE 77 TIMEOUT 120
      ENVIRONMENT IMGCLS_CPU_ISA=${isa})
  endforeach()
endfunction()

imgcls_test(unit cpu_device tests/unit/test_cpu_device.c)
imgcls_isa_tests(unit cpu_device tests/unit/test_cpu_device.c)
imgcls_isa_tests(unit depthwise_planes tests/unit/test_depthwise_planes.c)
# One table of cases (step_cases*.c) and one reference (step_reference*.c) for every step.
set(STEP_SOURCES tests/ops/step_cases.c tests/ops/step_cases_window.c tests/ops/step_data.c
  tests/ops/step_tape.c tests/ops/step_reference.c tests/ops/step_reference_pointwise.c
  tests/ops/step_reference_reduce.c tests/ops/step_reference_window.c tests/ops/step_separable.c)
imgcls_test(ops step_reference tests/ops/test_step_reference.c ${STEP_SOURCES})
set(STEP_CONTRACT_SOURCES tests/ops/test_step_contract.c tests/ops/step_run.c
  tests/ops/step_block.c ${STEP_SOURCES})
imgcls_isa_tests(ops step_contract ${STEP_CONTRACT_SOURCES})
imgcls_isa_tests(ops flat tests/ops/test_flat.c)

# --- backbones against other programs --------------------------------------------------------------
add_executable(backbone_bridge tests/backbone/backbone_bridge.c)
target_link_libraries(backbone_bridge PRIVATE imgcls_core)
add_test(NAME unit.backbone_names COMMAND python3
  ${CMAKE_SOURCE_DIR}/tests/backbone/names_check.py $<TARGET_FILE:imgcls>)
set_tests_properties(unit.backbone_names PROPERTIES LABELS unit TIMEOUT 120)
if(IMGCLS_SANITIZE) # unit.models_tool lists the same layers there
  set_tests_properties(unit.backbone_names PROPERTIES LABELS nightly)
endif()

# imgcls_backbone_oracle_test(NAME ORACLE SIDE BATCH LABEL): backbone_check.py; SIDE 0 is the
# backbone's own.
function(imgcls_backbone_oracle_test NAME ORACLE SIDE BATCH LABEL)
  set(python ${IMGCLS_KERAS_PYTHON})
  if(ORACLE STREQUAL "torch")
    set(python ${IMGCLS_TORCH_PYTHON})
  endif()
  set(test backbone.${NAME})
  if(SIDE EQUAL 0)
    set(test backbone_own_size.${NAME})
  endif()
  add_test(NAME ${test} COMMAND ${CMAKE_SOURCE_DIR}/tests/keras/run.sh ${python}
    ${CMAKE_SOURCE_DIR}/tests/backbone/backbone_check.py $<TARGET_FILE:imgcls>
    $<TARGET_FILE:backbone_bridge> ${CMAKE_BINARY_DIR}/${test} ${SIDE} ${BATCH} ${NAME})
  set_tests_properties(${test} PROPERTIES LABELS "keras;${LABEL}" SKIP_RETURN_CODE 77 TIMEOUT 3600)
endfunction()
foreach(backbone ${backbones}) # as read above, for the whole models
  separate_arguments(backbone)
  list(GET backbone 0 name)
  list(GET backbone 1 oracle)
  list(GET backbone 2 side)
  list(GET backbone 3 label)
  imgcls_backbone_oracle_test(${name} ${oracle} ${side} 4 ${label})
  imgcls_backbone_oracle_test(${name} ${oracle} 0 1 nightly)
endforeach()

# --- dist -----------------------------------------------------------------------------------------
foreach(ranks 1 2 3 4 8)
  imgcls_test(dist world RANKS ${ranks} tests/dist/test_world.c)
  imgcls_test(dist comm RANKS ${ranks} tests/dist/test_comm.c)
endforeach()
foreach(ranks 1 2 3 4 6 8 12)
  imgcls_test(dist reduce_tree RANKS ${ranks} tests/dist/test_reduce_tree.c)
endforeach()
foreach(ranks 1 2 4)
  imgcls_test(dist binding RANKS ${ranks} tests/dist/test_binding.c)
endforeach()
# One process without mpirun makes no session folder, here where it could not: such folders are shared
# by all single processes of a user, so that the end of one broke the start of another.
imgcls_test(dist world tests/dist/test_world.c)
set_tests_properties(dist.world PROPERTIES ENVIRONMENT TMPDIR=/dev/null)
add_executable(test_dist_stall tests/dist/stall.c)
target_link_libraries(test_dist_stall PRIVATE imgcls_core PkgConfig::JANSSON)
add_test(NAME dist.watchdog COMMAND ${CMAKE_SOURCE_DIR}/tests/dist/watchdog.sh ${MPIEXEC_EXECUTABLE}
                                    $<TARGET_FILE:test_dist_stall>)
set_tests_properties(dist.watchdog PROPERTIES LABELS dist TIMEOUT 120)

# --- data -----------------------------------------------------------------------------------------
imgcls_test(unit split tests/unit/test_split.c)
imgcls_test(unit data tests/unit/test_data.c LIBRARIES PkgConfig::XXHASH)
imgcls_test(unit data_augment tests/unit/test_data_augment.c)
imgcls_test(unit loader tests/unit/test_loader.c)
foreach(ranks 1 3)
  imgcls_test(unit resident RANKS ${ranks} tests/unit/test_resident.c)
endforeach()
add_test(NAME unit.data_tool COMMAND ${CMAKE_SOURCE_DIR}/tests/unit/test_data_tool.sh
  $<TARGET_FILE:imgcls>)
set_tests_properties(unit.data_tool PROPERTIES LABELS unit TIMEOUT 60)
add_executable(dataset_bridge tests/keras/dataset_bridge.c)
target_link_libraries(dataset_bridge PRIVATE imgcls_core)
imgcls_keras_test(dataset tests/keras/dataset_check.py $<TARGET_FILE:dataset_bridge>)

# --- exec -----------------------------------------------------------------------------------------

imgcls_test(unit model_part tests/unit/test_model_part.c)
imgcls_test(unit stochastic_depth TIMEOUT 300 tests/unit/test_stochastic_depth.c)
imgcls_keras_test(drop_schedule tests/backbone/drop_schedule_check.py $<TARGET_FILE:imgcls>)
set_tests_properties(keras.drop_schedule PROPERTIES LABELS "keras;nightly")
imgcls_isa_tests(unit concat_slices tests/unit/test_concat_slices.c)
imgcls_test(unit step_cost tests/unit/test_step_cost.c)
imgcls_test(unit recompute tests/unit/test_recompute.c)

# --- train ----------------------------------------------------------------------------------------
imgcls_test(unit checkpoint tests/unit/test_checkpoint.c)
imgcls_test(unit saved_state tests/unit/test_saved_state.c)
imgcls_test(unit report tests/unit/test_report.c)
imgcls_test(unit history tests/unit/test_history.c)
imgcls_test(unit loss_scale tests/unit/test_loss_scale.c)
imgcls_test(unit gradsync tests/unit/test_gradsync.c)
target_link_options(test_unit_gradsync PRIVATE -Wl,--wrap=comm_begin_sum)
add_test(NAME unit.bench COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/unit/test_bench.py
  $<TARGET_FILE:imgcls>)
set_tests_properties(unit.bench PROPERTIES LABELS unit TIMEOUT 60)
imgcls_keras_test(predict tests/keras/predict_check.py $<TARGET_FILE:imgcls>
  ${CMAKE_BINARY_DIR}/keras_predict)

imgcls_keras_test(tensorboard tests/keras/tensorboard_check.py $<TARGET_FILE:imgcls-train>
  ${CMAKE_BINARY_DIR}/keras_tensorboard)
imgcls_keras_test(mllog tests/keras/mllog_check.py $<TARGET_FILE:imgcls-train> ${MPIEXEC_EXECUTABLE}
  ${CMAKE_BINARY_DIR}/keras_mllog)

add_executable(schedule_dump tests/keras/schedule_dump.c)
target_link_libraries(schedule_dump PRIVATE imgcls_core)
imgcls_keras_test(schedules tests/keras/schedule_check.py $<TARGET_FILE:schedule_dump>)
add_executable(train_steps tests/keras/train_steps.c)
target_link_libraries(train_steps PRIVATE imgcls_core)
imgcls_keras_test(summary tests/keras/summary_check.py $<TARGET_FILE:imgcls>
  $<TARGET_FILE:train_steps> ${CMAKE_BINARY_DIR}/keras_summary
  mobilenet_v2_100_224 efficientnet_b0 nasnet_mobile)
foreach(network tiny mobilenet_v2_100_224 efficientnet_b0 efficientnetv2-b0 resnet_v1_50 ResNet50)
  imgcls_keras_test(train_steps.${network} tests/keras/train_steps.py $<TARGET_FILE:train_steps>
    ${CMAKE_BINARY_DIR}/keras_train_steps_${network} ${network})
  if(NOT network MATCHES "tiny|mobilenet")
    set_tests_properties(keras.train_steps.${network} PROPERTIES LABELS "keras;nightly" TIMEOUT 1800)
  endif()
endforeach()

# --- end to end -----------------------------------------------------------------------------------
add_test(NAME e2e.mistakes
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_mistakes.sh ${CMAKE_BINARY_DIR})
set_tests_properties(e2e.mistakes PROPERTIES LABELS e2e TIMEOUT 300)
if(IMGCLS_SANITIZE)
  imgcls_skipped_test(e2e.memory e2e "sanitizers take memory of their own")
else()
  add_test(NAME e2e.memory
    COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_memory.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
  set_tests_properties(e2e.memory PROPERTIES LABELS e2e TIMEOUT 300)
endif()
add_test(NAME e2e.exactness
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_exactness.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.exactness PROPERTIES LABELS e2e SKIP_RETURN_CODE 77 TIMEOUT 600)
add_test(NAME e2e.hostile_data COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/e2e/test_hostile_data.py
  ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.hostile_data PROPERTIES LABELS e2e TIMEOUT 300)
if(IMGCLS_SANITIZE)
  imgcls_skipped_test(e2e.kills e2e "a killed process reports nothing")
else()
  add_test(NAME e2e.kills
    COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_kills.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
  set_tests_properties(e2e.kills PROPERTIES LABELS e2e SKIP_RETURN_CODE 77 TIMEOUT 900)
  add_test(NAME nightly.kills
    COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_kills.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR} 60 2)
  set_tests_properties(nightly.kills PROPERTIES LABELS nightly SKIP_RETURN_CODE 77 TIMEOUT 3000
    RUN_SERIAL TRUE)
endif()
if(IMGCLS_SANITIZE)
  imgcls_skipped_test(e2e.micro_batch e2e "sanitizers take memory of their own")
else()
  add_test(NAME e2e.micro_batch
    COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_micro_batch.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
  set_tests_properties(e2e.micro_batch PROPERTIES LABELS e2e SKIP_RETURN_CODE 77 TIMEOUT 300)
endif()
add_test(NAME e2e.ema
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_ema.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.ema PROPERTIES LABELS e2e SKIP_RETURN_CODE 77 TIMEOUT 300)
add_test(NAME e2e.loss_scale
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_loss_scale.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.loss_scale PROPERTIES LABELS e2e SKIP_RETURN_CODE 77 TIMEOUT 300)
add_test(NAME e2e.features
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_features.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.features PROPERTIES LABELS e2e SKIP_RETURN_CODE 77 TIMEOUT 300)
add_test(NAME e2e.slurm
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_slurm.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.slurm PROPERTIES LABELS e2e TIMEOUT 300)
add_test(NAME e2e.real_slurm
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_real_slurm.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.real_slurm PROPERTIES LABELS "e2e;nightly" SKIP_RETURN_CODE 77
  TIMEOUT 3000)
if(IMGCLS_SANITIZE)
  imgcls_skipped_test(e2e.quickstart "e2e;nightly" "it builds programs of its own")
else()
  add_test(NAME e2e.quickstart COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_quickstart.sh
    ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
  set_tests_properties(e2e.quickstart PROPERTIES LABELS "e2e;nightly" SKIP_RETURN_CODE 77
    TIMEOUT 1500 RUN_SERIAL TRUE)
endif()
add_test(NAME e2e.scaling
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_scaling.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.scaling PROPERTIES LABELS e2e TIMEOUT 300)
add_test(NAME e2e.run
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_run.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.run PROPERTIES LABELS e2e SKIP_RETURN_CODE 77 TIMEOUT 300)
add_test(NAME e2e.messages COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/e2e/test_messages.py
  ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.messages PROPERTIES LABELS e2e TIMEOUT 300)

if(IMGCLS_SANITIZE)
  imgcls_skipped_test(e2e.losses e2e "kernels compiled with less optimisation round otherwise")
else()
  add_test(NAME e2e.losses COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/e2e/test_losses.py
    ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
  set_tests_properties(e2e.losses PROPERTIES LABELS e2e TIMEOUT 300)
endif()

add_test(NAME e2e.recipes
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_recipes.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.recipes PROPERTIES LABELS e2e TIMEOUT 300)

# What docs/adding-a-backbone.md says, done to the files that it names. Their objects come before
# those of the library; the programs are called as those without the page, for the tests of these.
set(EXAMPLE ${CMAKE_BINARY_DIR}/example/source)
set(EXAMPLE_CHANGES src/model/family.h src/model/registry.c tests/unit/test_model.c CMakeLists.txt
  tests/backbone/oracle_names.py tests/backbone/oracle_torch.py)
set(EXAMPLE_SOURCES ${EXAMPLE}/src/model/vgg.c ${EXAMPLE}/src/model/registry.c)
add_custom_command(OUTPUT ${EXAMPLE_SOURCES} ${EXAMPLE}/tests/unit/test_model.c
  COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/tools/apply_page.py
    ${CMAKE_SOURCE_DIR}/docs/adding-a-backbone.md ${CMAKE_SOURCE_DIR} ${EXAMPLE}
  DEPENDS tests/tools/apply_page.py docs/adding-a-backbone.md ${EXAMPLE_CHANGES}
  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
add_library(example_model OBJECT ${EXAMPLE_SOURCES})
target_include_directories(example_model BEFORE PRIVATE ${EXAMPLE}/src)
target_link_libraries(example_model PRIVATE imgcls_core)
# imgcls_example(PROGRAM SOURCE)
function(imgcls_example PROGRAM SOURCE)
  add_executable(example_${PROGRAM} ${SOURCE} $<TARGET_OBJECTS:example_model>)
  target_link_libraries(example_${PROGRAM} PRIVATE imgcls_core PkgConfig::CMOCKA m)
  set_target_properties(example_${PROGRAM} PROPERTIES
    OUTPUT_NAME ${PROGRAM} RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/example)
endfunction()
imgcls_example(imgcls src/main_tool.c)
imgcls_example(imgcls-train src/main_train.c)
imgcls_example(test_model ${EXAMPLE}/tests/unit/test_model.c)
imgcls_example(backbone_bridge tests/backbone/backbone_bridge.c)
add_test(NAME e2e.add_backbone
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_add_backbone.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
set_tests_properties(e2e.add_backbone PROPERTIES LABELS e2e TIMEOUT 300)
add_test(NAME backbone.example
  COMMAND ${CMAKE_SOURCE_DIR}/tests/e2e/test_add_backbone.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR}
    ${IMGCLS_TORCH_PYTHON})
set_tests_properties(backbone.example PROPERTIES LABELS "keras;nightly" SKIP_RETURN_CODE 77
  TIMEOUT 600)

add_executable(overfit tests/e2e/overfit.c)
target_link_libraries(overfit PRIVATE imgcls_core m)
if(IMGCLS_SANITIZE)
  imgcls_skipped_test(e2e.every_name e2e "the other tests hold every step, and this takes an hour")
else()
  foreach(label e2e nightly)
    add_test(NAME ${label}.every_name COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/e2e/test_every_name.py
      ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR} ${label})
    set_tests_properties(${label}.every_name PROPERTIES LABELS ${label} TIMEOUT 3600)
  endforeach()
endif()

# --- CUDA without a GPU ---------------------------------------------------------------------------
# The backend's host side and every kernel, against stand-ins for the libraries (tests/standin) and
# CUDA's execution model on the host (tests/kernels).
include(CheckLanguage)
check_language(CXX)
if(TARGET imgcls_cuda_host AND CMAKE_CXX_COMPILER)
  enable_language(CXX)
  # Each through a file of its own, for nvcc may compile the same sources in this build.
  set(emulated_sources)
  foreach(kernel ${KERNEL_SOURCES})
    cmake_path(GET kernel STEM name)
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/emulated/${name}.cpp
      CONTENT "#include \"${CMAKE_SOURCE_DIR}/${kernel}\"\n")
    list(APPEND emulated_sources ${CMAKE_BINARY_DIR}/emulated/${name}.cpp)
  endforeach()
  add_library(imgcls_emulated_kernels STATIC ${emulated_sources} tests/kernels/emulation.cpp)
  target_compile_options(imgcls_emulated_kernels PRIVATE -Wno-unknown-pragmas)
  add_library(imgcls_standin STATIC tests/standin/capture.c tests/standin/cublaslt.c
    tests/standin/cudart.c tests/standin/cudnn.c tests/standin/cudnn_descriptor.c
    tests/standin/cudnn_graph.c tests/standin/failures.c tests/standin/libraries.c tests/standin/stream.c)
  add_library(imgcls_checked_kernels STATIC EXCLUDE_FROM_ALL ${emulated_sources})
  target_compile_options(imgcls_checked_kernels PRIVATE -Wno-unknown-pragmas)
  add_library(imgcls_races STATIC EXCLUDE_FROM_ALL tests/kernels/emulation.cpp
    tests/kernels/races.cpp)
  foreach(target imgcls_emulated_kernels imgcls_checked_kernels imgcls_races imgcls_standin)
    target_compile_features(${target} PRIVATE cxx_std_17)
    target_compile_definitions(${target} PRIVATE IMGCLS_EMULATION _GNU_SOURCE)
    target_include_directories(${target} PRIVATE kernels tests/kernels tests/standin)
    target_include_directories(${target} SYSTEM PRIVATE ${CUDA_INCLUDE_DIR} ${CUDNN_INCLUDE_DIR}
      ${RANDOM123_INCLUDE_DIR})
    target_compile_options(${target} PRIVATE -Wall -Wextra -ffp-contract=off)
    if(IMGCLS_SANITIZE) # -O1: more takes twice as long to compile
      target_compile_options(${target} PRIVATE -fsanitize=${IMGCLS_SANITIZE}
        -fno-omit-frame-pointer -O1)
    endif()
  endforeach()
  set(STANDIN_PARTS $<TARGET_OBJECTS:imgcls_cuda_host> imgcls_emulated_kernels imgcls_standin)

  imgcls_test(cuda step_contract ${STEP_CONTRACT_SOURCES}
    LIBRARIES ${STANDIN_PARTS} ARGUMENTS cuda)
  # Every step once more under the checker of races, with threads in another order between barriers;
  # and kernels with planted mistakes, which the checker or AddressSanitizer must find.
  if(NOT IMGCLS_SANITIZE)
    target_compile_options(imgcls_checked_kernels PRIVATE -fsanitize=thread) # and not its runtime
    imgcls_test(cuda step_races ${STEP_CONTRACT_SOURCES}
      LIBRARIES $<TARGET_OBJECTS:imgcls_cuda_host> imgcls_checked_kernels imgcls_races imgcls_standin
      ARGUMENTS cuda)
    set_tests_properties(cuda.step_races PROPERTIES TIMEOUT 1200 ENVIRONMENT EMULATION_ORDER=shuffled)
  endif()
  if(NOT IMGCLS_SANITIZE OR IMGCLS_SANITIZE MATCHES address)
    add_executable(test_emulation tests/kernels/test_emulation.cpp)
    target_compile_features(test_emulation PRIVATE cxx_std_17)
    target_compile_definitions(test_emulation PRIVATE IMGCLS_EMULATION)
    target_include_directories(test_emulation PRIVATE kernels tests/kernels)
    target_compile_options(test_emulation PRIVATE -Wall -Wextra)
    if(IMGCLS_SANITIZE)
      target_compile_options(test_emulation PRIVATE -fsanitize=${IMGCLS_SANITIZE})
      target_link_libraries(test_emulation PRIVATE imgcls_emulated_kernels imgcls_core)
    else()
      target_compile_options(test_emulation PRIVATE -fsanitize=thread) # and not its runtime
      target_link_libraries(test_emulation PRIVATE imgcls_races)
    endif()
    add_test(NAME cuda.emulation COMMAND test_emulation)
    set_tests_properties(cuda.emulation PROPERTIES LABELS cuda TIMEOUT 60)
  endif()
  set_tests_properties(cuda.step_contract PROPERTIES TIMEOUT 600)
  imgcls_test(cuda flat tests/ops/test_flat.c LIBRARIES ${STANDIN_PARTS} ARGUMENTS cuda)
  imgcls_test(cuda value_add tests/ops/test_value_add.c LIBRARIES ${STANDIN_PARTS})
  target_include_directories(test_cuda_value_add PRIVATE kernels)
  target_link_options(test_cuda_value_add PRIVATE -Wl,--wrap=kernel_activate)
  add_executable(standin_parity tests/gpu/parity.c)
  target_link_libraries(standin_parity PRIVATE ${STANDIN_PARTS} imgcls_core m)
  add_test(NAME cuda.parity COMMAND standin_parity mobilenet_v3_small_075_224 32 fp32)
  set_tests_properties(cuda.parity PROPERTIES LABELS cuda TIMEOUT 600)
  imgcls_test(cuda augment tests/ops/test_augment.c LIBRARIES ${STANDIN_PARTS} ARGUMENTS cuda)
  imgcls_test(cuda plan_cache tests/kernels/test_plan_cache.c LIBRARIES ${STANDIN_PARTS})
  imgcls_test(cuda fusions tests/kernels/test_fusions.c LIBRARIES ${STANDIN_PARTS} TIMEOUT 600)

  imgcls_test(cuda concat_slices tests/unit/test_concat_slices.c LIBRARIES ${STANDIN_PARTS}
    ARGUMENTS cuda)
  imgcls_test(cuda recompute tests/unit/test_recompute.c LIBRARIES ${STANDIN_PARTS}
    ARGUMENTS cuda efficientnet_b0)

  # NCCL's side of the data plane, over MPI.
  if(TARGET imgcls_nccl_host)
    add_library(imgcls_standin_nccl STATIC tests/standin/nccl.c)
    target_compile_definitions(imgcls_standin_nccl PRIVATE _GNU_SOURCE)
    target_include_directories(imgcls_standin_nccl SYSTEM PRIVATE ${CUDA_INCLUDE_DIR}
      ${NCCL_INCLUDE_DIR})
    target_compile_options(imgcls_standin_nccl PRIVATE -Wall -Wextra)
    target_link_libraries(imgcls_standin_nccl PRIVATE MPI::MPI_C)
    if(IMGCLS_SANITIZE)
      target_compile_options(imgcls_standin_nccl PRIVATE -fsanitize=${IMGCLS_SANITIZE}
        -fno-omit-frame-pointer)
    endif()
    list(PREPEND STANDIN_PARTS $<TARGET_OBJECTS:imgcls_nccl_host> imgcls_standin_nccl)
    list(APPEND STANDIN_PARTS MPI::MPI_C)
    foreach(ranks 1 2 3 4 8)
      imgcls_test(cuda comm RANKS ${ranks} tests/dist/test_comm.c
        LIBRARIES ${STANDIN_PARTS} ARGUMENTS nccl)
    endforeach()
    foreach(ranks 1 2 3 4 8)
      imgcls_test(cuda reduce_tree RANKS ${ranks} tests/dist/test_reduce_tree.c
        LIBRARIES ${STANDIN_PARTS} ARGUMENTS nccl)
    endforeach()
    add_executable(test_nccl_library tests/dist/test_nccl_library.c)
    target_include_directories(test_nccl_library SYSTEM PRIVATE ${CUDA_INCLUDE_DIR}
      ${NCCL_INCLUDE_DIR})
    target_link_libraries(test_nccl_library PRIVATE $<TARGET_OBJECTS:imgcls_nccl_library>
      imgcls_core)
    add_test(NAME cuda.nccl_library COMMAND test_nccl_library)
    set_tests_properties(cuda.nccl_library PROPERTIES LABELS cuda SKIP_RETURN_CODE 77 TIMEOUT 60
      ENVIRONMENT "LD_LIBRARY_PATH=${CUDA_INCLUDE_DIR}/../lib64:${CUDA_INCLUDE_DIR}/../lib")
    add_executable(test_cuda_stall tests/dist/stall.c)
    target_link_libraries(test_cuda_stall PRIVATE imgcls_core PkgConfig::JANSSON
      ${STANDIN_PARTS})
    add_test(NAME cuda.nccl_failures COMMAND ${CMAKE_SOURCE_DIR}/tests/dist/nccl_failures.sh
      ${MPIEXEC_EXECUTABLE} $<TARGET_FILE:test_cuda_stall>)
    set_tests_properties(cuda.nccl_failures PROPERTIES LABELS cuda TIMEOUT 240)
  endif()

  # The programs themselves, whole.
  foreach(program train tool)
    add_executable(standin_${program} src/main_${program}.c)
    target_link_libraries(standin_${program} PRIVATE ${STANDIN_PARTS} imgcls_core)
  endforeach()
  # With planted mistakes, which tests must find.
  add_executable(standin_baking src/main_train.c tests/standin/baking.c)
  add_executable(standin_baking_tool src/main_tool.c tests/standin/baking.c)
  foreach(program standin_baking standin_baking_tool)
    target_include_directories(${program} PRIVATE kernels)
    target_link_libraries(${program} PRIVATE ${STANDIN_PARTS} imgcls_core)
    target_link_options(${program} PRIVATE -Wl,--wrap=kernel_sgd -Wl,--wrap=kernel_dropout
      -Wl,--wrap=kernel_softmax_cross_entropy -Wl,--wrap=kernel_upload)
  endforeach()
  # name, script, label, arguments
  foreach(run "training e2e/test_cuda.py cuda choice trainings ranks"
          "more_training e2e/test_cuda.py nightly memory resident frozen reproducible"
          "graph e2e/test_cuda_graph.py cuda some" "whole_graph e2e/test_cuda_graph.py nightly all"
          "overlap e2e/test_cuda_overlap.py cuda some"
          "whole_overlap e2e/test_cuda_overlap.py nightly all"
          "faults fault/test_cuda_faults.py cuda 120" "every_fault fault/test_cuda_faults.py nightly 1")
    separate_arguments(run)
    list(POP_FRONT run name script label)
    add_test(NAME cuda.${name} COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/${script}
      ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR} ${run})
    if(IMGCLS_SANITIZE)
      set(label "cuda;nightly") # many times slower there
    endif()
    set_tests_properties(cuda.${name} PROPERTIES TIMEOUT 3600 LABELS "${label}")
  endforeach()

  # tests/gpu/run.sh with these in place of the programs for a GPU.
  if(TARGET imgcls_nccl_host)
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/gpu_programs)
    foreach(program "imgcls standin_tool" "imgcls-train standin_train" "gpu_parity standin_parity"
            "test_gpu_step_contract test_cuda_step_contract" "test_gpu_flat test_cuda_flat"
            "test_gpu_augment test_cuda_augment" "test_gpu_comm test_cuda_comm"
            "test_gpu_reduce_tree test_cuda_reduce_tree" "test_gpu_stall test_cuda_stall")
      string(REPLACE " " ";" program "${program}")
      list(GET program 0 name)
      list(GET program 1 standin)
      file(CREATE_LINK ../${standin} ${CMAKE_BINARY_DIR}/gpu_programs/${name} SYMBOLIC)
    endforeach()
    foreach(parts "parts machine step_contract kept_plans recompute"
            "all_parts flat augment goals operations memory graph_on_and_off nccl_in_graphs parity_goals \
kill_and_resume two_runs_same_bits resident micro_batch cpu_and_gpu_train_alike two_ranks_one_gpu")
      separate_arguments(parts)
      list(POP_FRONT parts name)
      if(IMGCLS_SANITIZE AND name STREQUAL all_parts)
        continue() # kills, which report nothing there
      endif()
      add_test(NAME cuda.gpu_${name}
        COMMAND ${CMAKE_SOURCE_DIR}/tests/gpu/test_parts.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR} ${parts})
      set(label cuda)
      if(IMGCLS_SANITIZE OR name STREQUAL all_parts)
        set(label "cuda;nightly")
      endif()
      set_tests_properties(cuda.gpu_${name} PROPERTIES TIMEOUT 7200 LABELS "${label}")
    endforeach()
  endif()

  # What the real cuDNN says of our convolutions, for GPUs that are not there.
  find_library(CUDNN_LIBRARY cudnn HINTS ${CUDA_INCLUDE_DIR}/../lib64 ${CUDA_INCLUDE_DIR}/../lib)
  find_library(CUDART_LIBRARY cudart HINTS ${CUDA_INCLUDE_DIR}/../lib64 ${CUDA_INCLUDE_DIR}/../lib)
  find_library(NVRTC_LIBRARY nvrtc HINTS ${CUDA_INCLUDE_DIR}/../lib64 ${CUDA_INCLUDE_DIR}/../lib)
  if(CUDNN_LIBRARY AND CUDART_LIBRARY AND NVRTC_LIBRARY AND NOT IMGCLS_SANITIZE)
    file(REAL_PATH ${NVRTC_LIBRARY} nvrtc_file)
    string(REGEX MATCH "[.]so[.]([0-9]+)" nvrtc_version ${nvrtc_file})
    add_library(standin_libcuda SHARED tests/standin/libcuda.c)
    add_library(standin_nvrtc SHARED tests/standin/nvrtc.c)
    set_target_properties(standin_libcuda PROPERTIES OUTPUT_NAME cuda SOVERSION 1)
    set_target_properties(standin_nvrtc PROPERTIES OUTPUT_NAME nvrtc SOVERSION ${CMAKE_MATCH_1})
    set_target_properties(standin_libcuda standin_nvrtc PROPERTIES
      LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/standin)
    target_compile_definitions(standin_nvrtc PRIVATE NVRTC_LIBRARY="${nvrtc_file}")
    target_include_directories(standin_nvrtc SYSTEM PRIVATE ${CUDA_INCLUDE_DIR})
    target_compile_options(standin_nvrtc PRIVATE -Wall -Wextra)
    target_link_libraries(standin_nvrtc PRIVATE PkgConfig::XXHASH ${CMAKE_DL_LIBS})
    target_link_options(standin_nvrtc PRIVATE -Wl,-z,nodelete)
    add_executable(test_plan tests/kernels/test_plan.c tests/ops/step_cases.c
      tests/ops/step_cases_window.c)
    target_include_directories(test_plan PRIVATE tests)
    add_executable(cudnn_tool src/main_tool.c)
    cmake_path(GET CUDNN_LIBRARY PARENT_PATH cuda_libraries)
    foreach(program test_plan cudnn_tool)
      target_link_libraries(${program} PRIVATE $<TARGET_OBJECTS:imgcls_cuda_host>
        $<TARGET_OBJECTS:imgcls_cuda_libraries> imgcls_emulated_kernels imgcls_core
        ${CUDART_LIBRARY})
      set_target_properties(${program} PROPERTIES BUILD_RPATH ${cuda_libraries})
    endforeach()
    foreach(type fp32 bf16 fp16)
      add_test(NAME cuda.plan_cases.${type} COMMAND test_plan h200 ${type} cases)
      set(label nightly)
      if(type STREQUAL bf16)
        set(label cuda)
      endif()
      set_tests_properties(cuda.plan_cases.${type} PROPERTIES LABELS ${label} TIMEOUT 1800
        ENVIRONMENT LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/standin)
    endforeach()
    foreach(gpu h200 a100 l40s)
      foreach(type fp32 tf32 bf16 fp16)
        foreach(mode training inference)
          set(plan ${gpu}.${type}.${mode})
          add_test(NAME cuda.plan.${plan} COMMAND python3
            ${CMAKE_SOURCE_DIR}/tests/kernels/check_plans.py ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR}
            ${gpu} ${type} ${mode})
          # Those that compile little, or are asked for most.
          set(label nightly)
          if(plan MATCHES "32.training" OR plan MATCHES "h200.bf16")
            set(label cuda)
          endif()
          set_tests_properties(cuda.plan.${plan} PROPERTIES LABELS ${label} TIMEOUT 7200
            ENVIRONMENT LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/standin)
        endforeach()
      endforeach()
    endforeach()
    add_test(NAME cuda.plan_tool COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/kernels/test_plan_tool.py
      ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
    set_tests_properties(cuda.plan_tool PROPERTIES LABELS cuda TIMEOUT 900)
  endif()
endif()

# --- on a GPU -------------------------------------------------------------------------------------
# Programs of tests/gpu, with the real libraries.
if(IMGCLS_CUDA)
  foreach(program comm reduce_tree)
    add_executable(test_gpu_${program} tests/dist/test_${program}.c)
    target_include_directories(test_gpu_${program} PRIVATE tests)
    target_link_libraries(test_gpu_${program} PRIVATE ${IMGCLS_PROGRAM_PARTS} PkgConfig::CMOCKA m)
  endforeach()
  add_executable(test_gpu_stall tests/dist/stall.c)
  target_link_libraries(test_gpu_stall PRIVATE ${IMGCLS_PROGRAM_PARTS} PkgConfig::JANSSON)
  # What tests/gpu/run.sh runs beside the programs themselves; pack.sh takes them along.
  set(gpu_parts ${IMGCLS_PROGRAM_PARTS} PkgConfig::CMOCKA m)
  add_executable(test_gpu_step_contract ${STEP_CONTRACT_SOURCES})
  add_executable(test_gpu_flat tests/ops/test_flat.c)
  add_executable(test_gpu_augment tests/ops/test_augment.c)
  foreach(program step_contract flat augment)
    target_include_directories(test_gpu_${program} PRIVATE tests)
    target_link_libraries(test_gpu_${program} PRIVATE ${gpu_parts})
  endforeach()
  add_executable(gpu_parity tests/gpu/parity.c)
  target_link_libraries(gpu_parity PRIVATE ${IMGCLS_PROGRAM_PARTS} m)
  add_custom_target(gpu_tests DEPENDS imgcls imgcls-train test_gpu_comm test_gpu_reduce_tree
    test_gpu_stall test_gpu_step_contract test_gpu_flat test_gpu_augment gpu_parity)
  add_test(NAME gpu.nccl_two_ranks COMMAND ${CMAKE_SOURCE_DIR}/tests/gpu/nccl_two_ranks.sh
    ${CMAKE_BINARY_DIR} ${MPIEXEC_EXECUTABLE})
  set_tests_properties(gpu.nccl_two_ranks PROPERTIES LABELS gpu SKIP_RETURN_CODE 77 TIMEOUT 900)
endif()

# What the machine code of the kernels does, where it was compiled (cmake --preset cuda).
if(IMGCLS_CUDA)
  add_test(NAME cuda.machine_code COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/kernels/check_sass.py
    $<TARGET_FILE:imgcls_kernels> ${CUDAToolkit_BIN_DIR})
  add_test(NAME cuda.program COMMAND imgcls-train --version)
  set_tests_properties(cuda.machine_code cuda.program PROPERTIES LABELS "cuda;nvcc"
    SKIP_RETURN_CODE 77 TIMEOUT 120)
  # For all GPUs that a build is for by itself; compiled by its test.
  add_library(every_kernel STATIC EXCLUDE_FROM_ALL ${KERNEL_SOURCES})
  target_include_directories(every_kernel SYSTEM PRIVATE ${RANDOM123_INCLUDE_DIR})
  set_target_properties(every_kernel PROPERTIES
    CUDA_ARCHITECTURES "${IMGCLS_KNOWN_CUDA_ARCHITECTURES}")
  add_test(NAME cuda.every_kernel COMMAND ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR}
    --target every_kernel)
  add_test(NAME cuda.every_machine_code COMMAND python3
    ${CMAKE_SOURCE_DIR}/tests/kernels/check_sass.py $<TARGET_FILE:every_kernel>
    ${CUDAToolkit_BIN_DIR})
  set_tests_properties(cuda.every_kernel PROPERTIES FIXTURES_SETUP every_kernel)
  set_tests_properties(cuda.every_machine_code PROPERTIES FIXTURES_REQUIRED every_kernel)
  set_tests_properties(cuda.every_kernel cuda.every_machine_code PROPERTIES
    LABELS "cuda;nvcc;nightly" SKIP_RETURN_CODE 77 TIMEOUT 1800)
endif()

# --- faults ---------------------------------------------------------------------------------------
add_library(fault_shim SHARED tests/fault/shim.c)
target_compile_options(fault_shim PRIVATE -fno-builtin)
target_compile_definitions(fault_shim PRIVATE _GNU_SOURCE)
target_link_libraries(fault_shim PRIVATE ${CMAKE_DL_LIBS})
set_target_properties(fault_shim PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
add_executable(save_load tests/fault/save_load.c)
target_link_libraries(save_load PRIVATE imgcls_core)
if(IMGCLS_SANITIZE)
  imgcls_skipped_test(e2e.faults e2e "its preloaded allocator and the one of the sanitizer exclude each other")
else()
  add_test(NAME e2e.faults COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/fault/test_faults.py
    ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
  set_tests_properties(e2e.faults PROPERTIES LABELS e2e SKIP_RETURN_CODE 77 TIMEOUT 600)
endif()

# --- fuzzing --------------------------------------------------------------------------------------
# In a build with AddressSanitizer, by clang's libFuzzer: only what reads files, which needs neither
# MPI nor OpenMP, compiled once more by clang.
set(FUZZ_TARGETS ini image h5 keras packed safetensors)
if(IMGCLS_SANITIZE MATCHES "address")
  add_executable(make_corpus tests/fuzz/make_corpus.c tests/keras/every_layer.c
    tests/unit/image_samples.c)
  target_include_directories(make_corpus PRIVATE tests)
  target_link_libraries(make_corpus PRIVATE imgcls_core PkgConfig::JPEG PkgConfig::SPNG)
  foreach(fuzzed ${FUZZ_TARGETS})
    add_test(NAME fuzz.${fuzzed} COMMAND ${CMAKE_SOURCE_DIR}/tests/fuzz/run.sh ${CMAKE_BINARY_DIR}
      ${CMAKE_SOURCE_DIR} ${fuzzed})
    set_tests_properties(fuzz.${fuzzed} PROPERTIES LABELS fuzz SKIP_RETURN_CODE 77 TIMEOUT 120)
  endforeach()

  find_program(FUZZ_CC NAMES clang-14 clang)
  if(FUZZ_CC)
    file(WRITE ${CMAKE_BINARY_DIR}/fuzz/trial.c
      "int LLVMFuzzerTestOneInput(const char *data, unsigned long size) { return !data && size; }")
    execute_process(COMMAND ${FUZZ_CC} -fsanitize=fuzzer ${CMAKE_BINARY_DIR}/fuzz/trial.c
      -o ${CMAKE_BINARY_DIR}/fuzz/trial RESULT_VARIABLE fuzz_trial OUTPUT_QUIET ERROR_QUIET)
  endif()
endif()
if(FUZZ_CC AND fuzz_trial EQUAL 0)
  set(fuzz_flags -std=c17 -D_GNU_SOURCE -O1 -g -fno-omit-frame-pointer -fno-math-errno
    -fsanitize=address,undefined -fno-sanitize-recover=all -pthread -I${CMAKE_SOURCE_DIR}/src
    -isystem ${RANDOM123_INCLUDE_DIR})
  set(fuzz_libraries ${GIF_LIBRARIES} ${ZLIB_LIBRARIES})
  foreach(library HDF5 INI JANSSON JPEG SPNG PIXBUF XXHASH)
    list(TRANSFORM ${library}_INCLUDE_DIRS PREPEND -I OUTPUT_VARIABLE folders)
    list(APPEND fuzz_flags ${folders})
    list(APPEND fuzz_libraries ${${library}_LINK_LIBRARIES})
  endforeach()
  function(imgcls_fuzz_object OUT SOURCE)
    cmake_path(ABSOLUTE_PATH SOURCE BASE_DIRECTORY ${CMAKE_SOURCE_DIR})
    string(REGEX REPLACE "[/.]" "_" name ${SOURCE})
    string(REGEX REPLACE "^.*(src|tests)_" "" name ${name})
    set(object ${CMAKE_BINARY_DIR}/fuzz/${name}.o)
    add_custom_command(OUTPUT ${object}
      COMMAND ${CMAKE_C_COMPILER_LAUNCHER} ${FUZZ_CC} ${fuzz_flags} -fsanitize=fuzzer-no-link
              -MD -MF ${object}.d -c ${SOURCE} -o ${object}
      DEPENDS ${SOURCE} DEPFILE ${object}.d VERBATIM)
    set(${OUT} ${${OUT}} ${object} PARENT_SCOPE)
  endfunction()
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  set(fuzz_objects)
  foreach(source ${BASE_SOURCES} ${TENSOR_SOURCES} ${CONFIG_SOURCES} ${IO_SOURCES}
          ${GRAPH_SOURCES} ${KERAS_SOURCES} ${DATA_SOURCES})
    imgcls_fuzz_object(fuzz_objects ${source})
  endforeach()
  set(fuzzers)
  foreach(fuzzed ${FUZZ_TARGETS})
    set(main_object)
    imgcls_fuzz_object(main_object tests/fuzz/fuzz_${fuzzed}.c)
    set(fuzzer ${CMAKE_BINARY_DIR}/fuzz/fuzz_${fuzzed})
    add_custom_command(OUTPUT ${fuzzer}
      COMMAND ${FUZZ_CC} ${fuzz_flags} -fsanitize=fuzzer -o ${fuzzer} ${main_object} ${fuzz_objects}
              ${fuzz_libraries} -lm
      DEPENDS ${main_object} ${fuzz_objects} VERBATIM)
    list(APPEND fuzzers ${fuzzer})
  endforeach()
  add_custom_target(fuzzers ALL DEPENDS ${fuzzers})
endif()

# --- threads --------------------------------------------------------------------------------------
# What starts threads of its own, as one target and one label for a build with ThreadSanitizer.
set(TSAN_TESTS unit.checkpoint unit.data unit.image unit.loader dist.comm.np2 dist.watchdog)
set_property(TEST ${TSAN_TESTS} APPEND PROPERTY LABELS tsan)
add_custom_target(tsan_tests DEPENDS test_unit_checkpoint test_unit_data test_unit_image
  test_unit_loader test_dist_comm test_dist_stall)

# --- under sanitizers -----------------------------------------------------------------------------
# Emulated kernels take ten times as long there: the whole contract of the steps is for the night, and
# so is what runs no code of its own, or code that other tests run and waits most of the time.
if(IMGCLS_SANITIZE)
  foreach(test cuda.step_contract cuda.flat cuda.parity cuda.fusions cuda.recompute
          cuda.nccl_failures dist.watchdog e2e.add_backbone e2e.exactness e2e.recipes)
    if(TEST ${test} AND NOT (test STREQUAL dist.watchdog AND IMGCLS_SANITIZE MATCHES thread))
      set_tests_properties(${test} PROPERTIES LABELS nightly TIMEOUT 7200)
    endif()
  endforeach()
endif()

# --- side by side ---------------------------------------------------------------------------------
# tests/run.sh runs tests side by side, but for those that use all cores or measure time themselves.
# There are more threads and ranks than cores then: those that wait must not spin.
get_property(tests DIRECTORY PROPERTY TESTS)
foreach(test ${tests})
  set_property(TEST ${test} APPEND PROPERTY ENVIRONMENT OMP_WAIT_POLICY=passive
    OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1)
  get_property(level TEST ${test} PROPERTY LABELS)
  if((level MATCHES "dist" AND NOT test STREQUAL dist.watchdog) OR test MATCHES "(cuda\\.(comm|reduce_tree)|e2e\\.slurm)")
    set_property(TEST ${test} PROPERTY RUN_SERIAL TRUE)
  endif()
endforeach()
