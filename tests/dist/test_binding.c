// The ranks' shares of the cores: together all that is allowed, apart from each other, and obeyed.
#include <dirent.h>
#include <sched.h>

#include "dist/binding.h"
#include "ranks.h"

static World *world;

static void test_shares(void **state) {
  (void)state;
  cpu_set_t allowed, bound;
  assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  Binding binding;
  assert_ok(binding_find(&binding, world, NULL));
  assert_in_range(binding.cores, 1, binding.cores_allowed);
  assert_in_range(binding.cores_allowed, 1, binding.cores_machine);
  assert_in_range(binding.sharers, 1, world->size);
  assert_true(strlen(binding.text) > 20 && strlen(binding.cpus) > 0);
  assert_int_equal(binding.overcommitted, binding.sharers > binding.cores_allowed);

  assert_ok(binding_apply(&binding));
  assert_int_equal(sched_getaffinity(0, sizeof bound, &bound), 0);
  cpu_set_t both;
  CPU_AND(&both, &allowed, &bound);
  assert_true(CPU_EQUAL(&both, &bound)); // never more than was allowed
  if (binding.overcommitted || binding.sharers == 1) assert_true(CPU_EQUAL(&allowed, &bound));

  // No processor belongs to two ranks.
  cpu_set_t all[64];
  assert_ok(world_allgather_bytes(world, all, &bound, sizeof bound));
  for (int r = 0; r < world->size && !binding.overcommitted; r++) {
    CPU_AND(&both, &all[r], &bound);
    if (r != world->rank) assert_int_equal(CPU_COUNT(&both), 0);
  }
  if (world->rank == 0) (void)fprintf(stderr, "%s\n", binding.text);
  assert_int_equal(sched_setaffinity(0, sizeof allowed, &allowed), 0);
}

// A process without a world shares with nobody.
static void test_alone(void **state) {
  (void)state;
  Binding binding;
  assert_ok(binding_find(&binding, NULL, NULL));
  assert_int_equal(binding.sharers, 1);
  assert_in_range(binding.cores, 1, binding.cores_allowed);
}

// A launcher's binding is respected: each rank alone on one processor.
static void test_launcher_bound(void **state) {
  (void)state;
  cpu_set_t allowed, one;
  assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  if (world->size > CPU_COUNT(&allowed)) skip();
  CPU_ZERO(&one);
  for (int cpu = 0, index = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &allowed) && index++ == world->rank) CPU_SET(cpu, &one);
  assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
  Binding binding;
  assert_ok(binding_find(&binding, world, NULL));
  assert_int_equal(binding.cores, 1);
  assert_int_equal(binding.cores_allowed, 1);
  assert_int_equal(binding.sharers, 1);
  assert_int_equal(sched_setaffinity(0, sizeof allowed, &allowed), 0);
}

// Slurm's word holds where no cpuset enforces it.
static void test_slurm(void **state) {
  (void)state;
  (void)setenv("SLURM_CPUS_PER_TASK", "1", 1);
  Binding binding;
  assert_ok(binding_find(&binding, world, NULL));
  assert_int_equal(binding.cores, 1);
  (void)setenv("SLURM_CPUS_PER_TASK", "nonsense", 1);
  assert_ok(binding_find(&binding, world, NULL));
  assert_in_range(binding.cores, 1, binding.cores_allowed);
  (void)unsetenv("SLURM_CPUS_PER_TASK");
}

// The processors that the kernel lists for a device bound the share; one that is not there does not.
static void test_near_device(void **state) {
  (void)state;
  Binding anywhere, near;
  assert_ok(binding_find(&anywhere, world, "ffff:ff:1f.7"));
  assert_false(anywhere.near_device);
  DIR *folder = opendir("/sys/bus/pci/devices");
  if (!folder) skip();
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    char path[512], list[512] = "";
    if (entry->d_name[0] == '.') continue;
    (void)snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/local_cpulist", entry->d_name);
    FILE *file = fopen(path, "r");
    if (!file) continue;
    bool has_list = fgets(list, sizeof list, file) != NULL;
    (void)fclose(file);
    assert_ok(binding_find(&near, world, entry->d_name));
    assert_in_range(near.cores, 1, near.cores_allowed);
    assert_true(near.cores_allowed <= anywhere.cores_allowed);
    assert_int_equal(near.near_device, near.cores_allowed < anywhere.cores_allowed);
    if (!has_list) assert_false(near.near_device);
  }
  (void)closedir(folder);
}

static int tests(void) {
  const struct CMUnitTest list[] = {
      cmocka_unit_test(test_shares),
      cmocka_unit_test(test_alone),
      cmocka_unit_test(test_launcher_bound),
      cmocka_unit_test(test_slurm),
      cmocka_unit_test(test_near_device),
  };
  return cmocka_run_group_tests_name("binding", list, NULL, NULL);
}

int main(int argc, char **argv) {
  return ranks_run(&world, argc, argv, tests);
}
