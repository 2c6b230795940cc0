/* Proves a libtorch before ninety seconds of C++ are compiled against it: loads it with all that it needs,
   asks its version and multiplies two 2x2 matrices through its C interface. Prints "major.minor.patch". */
#include <stdint.h>
#include <stdio.h>

typedef struct tensor *Tensor;
uint64_t aoti_torch_abi_version(void);
int32_t aoti_torch_device_type_cpu(void);
int32_t aoti_torch_dtype_float32(void);
int32_t aoti_torch_create_tensor_from_blob(void *data, int64_t ndim, const int64_t *sizes, const int64_t *strides,
                                           int64_t offset, int32_t dtype, int32_t device_type,
                                           int32_t device_index, Tensor *out);
int32_t aoti_torch_cpu_mm_out(Tensor out, Tensor left, Tensor right);

static Tensor square(float *values) {
    const int64_t sizes[2] = {2, 2}, strides[2] = {2, 1};
    Tensor tensor = 0;
    if (aoti_torch_create_tensor_from_blob(values, 2, sizes, strides, 0, aoti_torch_dtype_float32(),
                                           aoti_torch_device_type_cpu(), 0, &tensor))
        return 0;
    return tensor;
}

int main(void) {
    float left[4] = {1, 2, 3, 4}, right[4] = {5, 6, 7, 8}, product[4] = {0};
    Tensor a = square(left), b = square(right), c = square(product);
    if (!a || !b || !c || aoti_torch_cpu_mm_out(c, a, b)) return 1;
    if (product[0] != 19 || product[1] != 22 || product[2] != 43 || product[3] != 50) return 2;
    uint64_t version = aoti_torch_abi_version();
    printf("%d.%d.%d\n", (int)(version >> 56), (int)(version >> 48 & 255), (int)(version >> 40 & 255));
    return 0;
}
