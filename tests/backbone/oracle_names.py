"""Which program is the oracle of which backbone. Names with the graph of one of these are not in
the list: names_check.py finds them. Run as a program: a line "NAME;ORACLE;SIDE;LABEL" for each, of
which CMake makes tests: SIDE is small, odd, and leaves more than one pixel at the end; LABEL is
`daily` or `nightly`."""

ORACLES = {name: oracle for oracle, names in {
    "keras": """
        mobilenet_v2_100_224 mobilenet_v2_130_224 mobilenet_v2_140_224
        mobilenet_v3_small_100_224 mobilenet_v3_small_075_224 mobilenet_v3_large_100_224
        mobilenet_v3_large_075_224 MobileNetV3Small MobileNetV3Large
        ResNet50 ResNet101 ResNet152 ResNet50V2 ResNet101V2 ResNet152V2
        InceptionV3 InceptionResNetV2
        EfficientNetB0 EfficientNetB1 EfficientNetB2 EfficientNetB3 EfficientNetB4 EfficientNetB5
        EfficientNetB6 EfficientNetB7
        EfficientNetV2B0 EfficientNetV2B1 EfficientNetV2B2 EfficientNetV2B3 EfficientNetV2S
        EfficientNetV2M EfficientNetV2L
        NASNetMobile NASNetLarge nasnet_mobile nasnet_large""",
    "slim": """
        resnet_v1_50 resnet_v1_101 resnet_v1_152 resnet_v2_50 resnet_v2_101 resnet_v2_152
        inception_v3""",
    "torch": """
        resnet50_v1_5 resnet101_v1_5 resnet152_v1_5 efficientnetv2-xl-21k bit_s-r50x1
        pnasnet_large""",
}.items() for name in names.split()}

DAILY = """
    mobilenet_v2_100_224 mobilenet_v3_small_100_224 ResNet50 InceptionV3 EfficientNetB0
    resnet_v2_50 bit_s-r50x1
    """.split()


def main():
    for name, oracle in ORACLES.items():
        side = 107 if name.lower().startswith("inception") else 65
        print(name, oracle, side, "daily" if name in DAILY else "nightly", sep=";")


if __name__ == "__main__":
    main()
