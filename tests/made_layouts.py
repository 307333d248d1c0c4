"""Tiny data sets in the published formats of the layouts: the columns, names and folders of the
originals, noise for pixels."""

import csv
import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from dicom_files import write_dicom
from PIL import Image

from lib.config import FINDINGS
from lib.datasets.layouts import vindr

SIDE = 48  # px


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


CHEXPERT = _names(
    "No Finding, Enlarged Cardiomediastinum, Cardiomegaly, Lung Opacity, Lung Lesion, Edema, "
    "Consolidation, Pneumonia, Atelectasis, Pneumothorax, Pleural Effusion, Pleural Other, "
    "Fracture, Support Devices"
)
PADCHEST = _names(
    ", ImageID, ImageDir, StudyDate_DICOM, StudyID, PatientID, PatientBirth, "
    "PatientSex_DICOM, ViewPosition_DICOM, Projection, MethodProjection, Pediatric, "
    "Modality_DICOM, Manufacturer_DICOM, PhotometricInterpretation_DICOM, "
    "PixelRepresentation_DICOM, PixelAspectRatio_DICOM, SpatialResolution_DICOM, "
    "BitsStored_DICOM, WindowCenter_DICOM, WindowWidth_DICOM, Rows_DICOM, Columns_DICOM, "
    "XRayTubeCurrent_DICOM, Exposure_DICOM, ExposureInuAs_DICOM, ExposureTime, "
    "RelativeXRayExposure_DICOM, ReportID, Report, MethodLabel, Labels, Localizations, "
    "LabelsLocalizationsBySentence, labelCUIS, LocalizationsCUIS"
)
MIMIC_METADATA = _names(
    "dicom_id, subject_id, study_id, PerformedProcedureStepDescription, ViewPosition, Rows, "
    "Columns, StudyDate, StudyTime, ProcedureCodeSequence_CodeMeaning, "
    "ViewCodeSequence_CodeMeaning, PatientOrientationCodeSequence_CodeMeaning"
)
VINDR = _names(
    "Aortic enlargement, Atelectasis, Calcification, Cardiomegaly, Clavicle fracture, "
    "Consolidation, Edema, Emphysema, Enlarged PA, ILD, Infiltration, Lung Opacity, Lung "
    "cavity, Lung cyst, Mediastinal shift, Nodule/Mass, Pleural effusion, Pleural thickening, "
    "Pneumothorax, Pulmonary fibrosis, Rib fracture, Other lesion, COPD, Lung tumor, "
    "Pneumonia, Tuberculosis"
)


def pixels(name: str, sick: bool = False, depth: int = 8, side: int = SIDE) -> np.ndarray:
    """A film of its own (side, side) for every name, brighter below where it is sick."""
    film = np.random.default_rng(crc32(name.encode())).integers(20, 200, (side, side))
    film[side // 2 :] += 50 * sick
    return film.astype(np.uint8) if depth == 8 else (film * 16).astype(np.uint16)


def save(path: Path, film: np.ndarray) -> None:
    """Writes the film as the name asks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(film).save(path)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """A CSV file, compressed where its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        gzip.open(path, "wt", newline="")
        if path.suffix == ".gz"
        else path.open("w", newline="") as file
    ):
        csv.writer(file).writerows([header, *rows])


def chexpert_labels(sick: bool, number: int) -> list[str]:
    """Cells of the 14 columns: sick with effusion, oedema uncertain or not mentioned; or healthy."""
    if not sick:
        return ["1.0", *[""] * 13]
    cells = dict.fromkeys(CHEXPERT, "")
    cells |= {
        "Pleural Effusion": "1.0",
        "Cardiomegaly": "0.0",
        "Edema": ("-1.0", "")[number % 4 > 1],
    }
    return list(cells.values())


def write_chexpert(folder: Path, *, small: bool = True, test: bool = True) -> Path:
    """CheXpert-v1.0-small as its archive holds it, with lateral films, and the test set beside it."""
    name = "CheXpert-v1.0-small" if small else "CheXpert-v1.0"
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]
    parts = {"train.csv": ("train", range(1, 21)), "valid.csv": ("valid", range(64541, 64549))}
    for table, (part, patients) in parts.items():
        rows = []
        for number in patients:
            sick, study = bool(number % 2), f"{part}/patient{number:05d}/study1"
            for view in ("view1_frontal.jpg", "view2_lateral.jpg")[: 1 + (number % 3 == 0)]:
                frontal = "frontal" in view
                save(folder / name / study / view, pixels(f"{study}{view}", sick))
                rows.append(
                    [
                        f"{name}/{study}/{view}",
                        ("Male", "Female")[sick],
                        40 + number % 50,
                        "Frontal" if frontal else "Lateral",
                        ("AP", "PA")[sick] if frontal else "",
                        *chexpert_labels(sick, number),
                    ]
                )
        write_csv(folder / name / table, header, rows)
    if test:
        rows = []
        for number in range(64741, 64749):
            image = f"test/patient{number}/study1/view1_frontal.jpg"
            save(folder / name / image, pixels(image, bool(number % 2)))
            rows.append([image, *(cell or "0.0" for cell in chexpert_labels(bool(number % 2), 2))])
        write_csv(folder / name / "test_labels.csv", ["Path", *CHEXPERT], rows)
    return folder


def write_mimic(folder: Path, *, labeller: str = "chexpert") -> Path:
    """MIMIC-CXR-JPG: compressed tables, files/p10/p10000032/s50414267/<dicom_id>.jpg."""
    columns = sorted(CHEXPERT)
    labels, metadata, splits = [], [], []
    for number in range(28):
        sick, subject, study = bool(number % 2), 10000032 + number, 50414267 + number
        cells = dict(zip(CHEXPERT, chexpert_labels(sick, number), strict=True))
        labels.append([subject, study, *(cells[name] for name in columns)])
        part = "train" if number < 14 else ("validate", "test")[number // 2 % 2]
        for view in ("PA", "LATERAL")[: 1 + (number % 3 == 0)]:
            dicom = f"{crc32(f'{study}{view}'.encode()):08x}-bde0afdd-112c0b34-7bc16630-4e384014"
            path = f"files/p{str(subject)[:2]}/p{subject}/s{study}/{dicom}.jpg"
            save(folder / path, pixels(path, sick))
            row = dict.fromkeys(MIMIC_METADATA, "")
            row |= {
                "dicom_id": dicom,
                "subject_id": subject,
                "study_id": study,
                "ViewPosition": view,
            }
            metadata.append(list(row.values()))
            splits.append([dicom, study, subject, part])
    start = folder / "mimic-cxr-2.0.0"
    write_csv(Path(f"{start}-{labeller}.csv.gz"), ["subject_id", "study_id", *columns], labels)
    write_csv(Path(f"{start}-metadata.csv.gz"), MIMIC_METADATA, metadata)
    write_csv(
        Path(f"{start}-split.csv.gz"), ["dicom_id", "study_id", "subject_id", "split"], splits
    )
    return folder


def write_padchest(folder: Path, patients: int = 40) -> Path:
    """PadChest: 16-bit PNG in the archives' folders, labels as Python lists."""
    rows = []
    for number in range(patients):
        sick = bool(number % 2)
        labels = ["['normal']", "['pleural effusion', ' cardiomegaly', 'unchanged', '']"][sick]
        for projection in ("PA", "L")[: 1 + (number % 4 == 0)]:
            name = f"2168401113669640{number:04d}_00-0{number % 9}1-{projection}.png"
            save(folder / str(number % 3) / name, pixels(name, sick, 16))
            row = dict.fromkeys(PADCHEST, "")
            row |= {"": len(rows), "ImageID": name, "ImageDir": number % 3, "Labels": labels}
            row |= {"StudyDate_DICOM": 20140915, "PatientBirth": f"{1930 + number}.0"}
            row |= {
                "PatientID": f"8398604886942923316379882356{number:04d}",
                "Projection": projection,
            }
            row |= {
                "PatientSex_DICOM": "MF"[sick],
                "Report": "sin hallazgos, torax",
                "MethodLabel": "Physician",
            }
            rows.append(list(row.values()))
    write_csv(folder / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", PADCHEST, rows)
    return folder


def write_vindr(folder: Path, *, suffix: str = ".dicom") -> Path:
    """VinDr-CXR: three readers in train, their consensus in test; DICOM without a modality."""
    rows: dict[str, list] = {"train": [], "test": []}
    for part, count in (("train", 30), ("test", 10)):
        for number in range(count):
            name, sick = f"{crc32(f'{part}{number}'.encode()):08x}", bool(number % 2)
            path = folder / part / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == ".dicom":
                header = {"Modality": None, "BodyPartExamined": None, "ViewPosition": None}
                write_dicom(path, pixels(name, sick, 16), **header)
            else:
                save(path, pixels(name, sick))
            readers = ("R8", "R9", "R10") if part == "train" else ("",)
            for index, reader in enumerate(readers):
                cells = dict.fromkeys(VINDR, 0)
                cells["Pleural effusion"] = int(sick)
                cells["Cardiomegaly"] = int(index <= number % 3 and sick and part == "train")
                rows[part].append([name, reader, *cells.values(), 0, int(not sick)])
    other = {"train": "Other diseases", "test": "Other disease"}
    for part, lines in rows.items():
        header = ["image_id", "rad_id", *VINDR, other[part], "No finding"]
        cells = lines if part == "train" else [[line[0], *line[2:]] for line in lines]
        names = header if part == "train" else [header[0], *header[2:]]
        write_csv(folder / "annotations" / f"image_labels_{part}.csv", names, cells)
    assert set(vindr.FINDINGS) <= set(VINDR)
    return folder


def write_medmnist(folder: Path, kind: str = "chestmnist", side: int = 28) -> Path:
    """An archive of MedMNIST in one of its sizes."""
    arrays = {}
    for part, count in (("train", 20), ("val", 8), ("test", 8)):
        films = [pixels(f"{kind}{part}{i}", bool(i % 2), side=side) for i in range(count)]
        columns = len(FINDINGS) if kind == "chestmnist" else 1
        arrays[f"{part}_images"] = np.stack(films)
        arrays[f"{part}_labels"] = np.tile(np.arange(count) % 2, (columns, 1)).T.astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    name = kind if side == 28 else f"{kind}_{side}"
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    return folder


def write_rsna(folder: Path, films: int = 40, *, mappings: bool = False) -> Path:
    """The RSNA challenge's training set: DICOM, one row per box."""
    rows, classes, mapped = [], [], []
    for number in range(films):
        name, sick = f"{crc32(f'rsna{number}'.encode()):08x}-5a91-4a9d-bf1c", bool(number % 2)
        (folder / "stage_2_train_images").mkdir(parents=True, exist_ok=True)
        write_dicom(folder / "stage_2_train_images" / f"{name}.dcm", pixels(name, sick))
        boxes = [[100, 200, 50, 60], [500, 200, 50, 60]] if sick else [[""] * 4]
        rows += [[name, *box, int(sick)] for box in boxes]
        kind = (
            "Lung Opacity" if sick else ("Normal", "No Lung Opacity / Not Normal")[number % 4 > 1]
        )
        classes += [[name, kind]] * len(boxes)
        mapped.append(
            {"subset_img_id": name, "img_id": f"{number // 2 + 1:08d}_{number % 2:03d}.png"}
        )
    write_csv(
        folder / "stage_2_train_labels.csv",
        ["patientId", "x", "y", "width", "height", "Target"],
        rows,
    )
    write_csv(folder / "stage_2_detailed_class_info.csv", ["patientId", "class"], classes)
    if mappings:
        path = folder / "pneumonia-challenge-dataset-mappings_2018.json"
        path.write_text(json.dumps(mapped))
    return folder
