"""Labels from tables: the plain one, and those of public data sets with their real headers."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.data.listed import find_listed
from pneumonia.data.tables import Record, read_records
from pneumonia.errors import DataError, UsageError

Cli = Callable[..., Result]
CLASSES = ("NORMAL", "PNEUMONIA")

NIH = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,\
View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]
00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143
00000002_000.png,No Finding,0,2,80,M,PA,2500,2048,0.171,0.171
00000061_012.png,Effusion|Infiltration|Pneumonia,12,61,77,M,AP,2500,2048,0.168,0.168
"""
RSNA = """patientId,x,y,width,height,Target
0004cfab-14fd-4e49-80ba-63a80b6bddd6,,,,,0
00436515-870c-4b36-a041-de91049b9ab4,264.0,152.0,213.0,379.0,1
00436515-870c-4b36-a041-de91049b9ab4,562.0,152.0,256.0,453.0,1
"""
CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,\
Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,\
Pleural Effusion,Pleural Other,Fracture,Support Devices
C/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0
C/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,
C/train/patient00003/study1/view1_frontal.jpg,Male,41,Frontal,AP,,,,,,1.0,,0.0,,0.0,,,,
C/train/patient00004/study1/view1_frontal.jpg,Female,20,Frontal,PA,,0.0,,,,,0.0,-1.0,,0.0,0.0,,,
C/train/patient00005/study1/view1_frontal.jpg,Male,33,Frontal,PA,,,,,,,,1.0,,,,,,
C/train/patient00005/study1/view2_lateral.jpg,Male,33,Lateral,,,,,,,,,1.0,,,,,,
"""
VINDR = """image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
50a4,No finding,14,R11,,,,
50a4,No finding,14,R7,,,,
50a4,Cardiomegaly,3,R10,691.0,1375.0,1653.0,1831.0
9a50,Lung Opacity,7,R8,1,2,3,4
9a50,Lung Opacity,7,R8,5,6,7,8
9a50,Consolidation,4,R9,1,2,3,4
9a50,No finding,14,R10,,,,
21a1,Lung Opacity,7,R8,1,2,3,4
21a1,No finding,14,R9,,,,
21a1,Cardiomegaly,3,R10,1,2,3,4
"""
PADCHEST = """,ImageID,ImageDir,StudyID,PatientID,Projection,Labels
0,1_a.png,0,s1,p1,PA,"['normal']"
1,2_a.png,0,s2,p2,PA,"['pneumonia', ' infiltrates']"
2,2_b.png,0,s2,p2,L,"['pneumonia']"
3,3_a.png,0,s3,p3,AP,"['cardiomegaly']"
4,4_a.png,0,s4,p4,PA,nan
"""


def read(text: str, *findings: str) -> tuple[list[Record], Counter[str]]:
    """The records of a table."""
    return read_records(text, "table.csv", findings or ("Pneumonia",), CLASSES)


@pytest.mark.parametrize(
    ("text", "findings", "labels", "left_out"),
    [
        (NIH, "Pneumonia", {"00000002_000.png": 0, "00000061_012.png": 1}, {"other findings": 1}),
        (NIH, "effusion", {"00000002_000.png": 0, "00000061_012.png": 1}, {"other findings": 1}),
        (
            RSNA,
            "Pneumonia",
            {
                "0004cfab-14fd-4e49-80ba-63a80b6bddd6": 0,
                "00436515-870c-4b36-a041-de91049b9ab4": 1,
            },
            {},
        ),
        (
            CHEXPERT,
            "Pneumonia",
            {
                "C/train/patient00001/study1/view1_frontal.jpg": 0,
                "C/train/patient00003/study1/view1_frontal.jpg": 0,
                "C/train/patient00005/study1/view1_frontal.jpg": 1,
            },
            {"lateral view": 1, "uncertain": 1, "not mentioned": 1},
        ),
        (
            VINDR,
            "Lung Opacity,Consolidation",
            {"50a4": 0, "9a50": 1},
            {"no majority of readers": 1},
        ),
        (
            PADCHEST,
            "pneumonia",
            {"1_a.png": 0, "2_a.png": 1},
            {"lateral view": 1, "other findings": 2},
        ),
    ],
)
def test_public_tables_are_read_as_they_are(
    text: str, findings: str, labels: dict[str, int], left_out: dict[str, int]
) -> None:
    records, skipped = read(text, *findings.split(","))
    assert {record.image: record.label for record in records} == labels
    assert skipped == left_out


def test_patients_and_splits_come_from_the_table() -> None:
    assert [record.patient for record in read(NIH)[0]] == ["2", "61"]
    plain = "Path,LABEL,patient,split\na.png,normal,7,train\nb.png,1,8,Testing\n"
    records, _ = read("\ufeff" + plain)
    assert records == [Record("a.png", 0, "7", "train"), Record("b.png", 1, "8", "Testing")]


def test_age_sex_and_view_come_from_the_table_and_all_columns_of_a_plain_one() -> None:
    assert read(NIH)[0][0].attributes == {"age": "80", "sex": "M", "view": "PA"}
    assert read(CHEXPERT)[0][0].attributes == {"age": "68", "sex": "Female", "view": "AP"}
    (record,), _ = read("path,label,Device,ward\na.png,1, Ysio ,\n")
    assert record.attributes == {"device": "Ysio", "ward": ""}


@pytest.mark.parametrize(
    ("text", "finding", "said"),
    [
        (VINDR, "Pneumonia", "no finding 'Pneumonia': choose --findings from cardiomegaly, cons"),
        (NIH, "Pnuemonia", "no finding 'Pnuemonia': choose --findings from cardiomegaly, eff"),
        ("a,b\n1,2\n", "Pneumonia", "is no table of labels: it needs the columns path and label"),
        ("", "Pneumonia", "is no table of labels"),
        ("path,label\na.png,ill\n", "", "line 2: label 'ill' is none of 0, 1, NORMAL, PNEUMONIA"),
        ("path,label\na.png,0\na.png,1\n", "", "calls 'a.png' both positive and negative"),
        (RSNA.replace(",1\n", ",x\n", 1), "Pneumonia", "has a value that cannot be read"),
    ],
)
def test_what_a_table_does_not_say_is_told(text: str, finding: str, said: str) -> None:
    with pytest.raises((DataError, UsageError)) as refused:
        read(text, finding)
    assert said in str(refused.value)


@given(st.text(max_size=300), st.sampled_from([NIH, RSNA, CHEXPERT, VINDR, PADCHEST]))
def test_no_text_raises_anything_but_our_own_errors(text: str, table: str) -> None:
    for mutated in (text, table + text, table.splitlines()[0] + "\n" + text):
        try:
            records, _ = read(mutated)
        except (DataError, UsageError):
            continue
        assert all(record.label in (0, 1) for record in records)


@pytest.mark.parametrize("cell", ["5", "None", "{[]: 1}", "[" * 500, "{}", "'pneumonia'"])
def test_a_cell_that_is_no_list_is_another_finding(cell: str) -> None:
    records, left_out = read(f'{PADCHEST}5,5_a.png,0,s5,p5,PA,"{cell}"\n')
    assert "5_a.png" not in {record.image for record in records}
    assert left_out["other findings"] == 3


def _listed(root: Path, text: str, **options: bool) -> dict[str, int]:
    table = root.parent / "labels.csv"
    table.write_text(text)
    found = find_listed(root, table, findings="Pneumonia", class_names=CLASSES, **options)
    return {file.path.relative_to(root).as_posix(): file.label for file in found.images}


def test_images_are_found_by_the_end_of_their_path(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for name in ("a/1.png", "b/1.png", "deep/down/2.PNG", "3.dcm.png"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode())
    text = "path,label\nset/a/1.png,0\n2,1\nB/1.PNG,1\n"
    assert _listed(root, text) == {"a/1.png": 0, "deep/down/2.PNG": 1, "b/1.png": 1}
    with pytest.raises(DataError, match=r"'1.png' is '.*a/1.png' or '.*b/1.png'"):
        _listed(root, "path,label\n1.png,0\n")
    with pytest.raises(DataError, match=r"1 images that .* are not below .* \(such as '9.png'\)"):
        _listed(root, "path,label\n9.png,0\n2,1\n")
    assert _listed(root, "path,label\n9.png,0\n2,1\n", skip_missing=True) == {"deep/down/2.PNG": 1}
    with pytest.raises(DataError, match="cannot read the table"):
        find_listed(root, tmp_path / "no.csv", findings="x", class_names=CLASSES)


@pytest.mark.slow
def test_training_and_evaluation_take_a_table(
    xrays: Path, workplace: Path, tmp_path: Path, run_cli: Cli
) -> None:
    """The images lie flat, under names that say nothing: the table knows the rest."""
    flat = tmp_path / "flat"
    flat.mkdir()
    lines = ["path,label,patient,split"]
    for number, file in enumerate(sorted(xrays.glob("*/*/*"))):
        shutil.copy(file, flat / f"{number:04}{file.suffix}")
        patient = "-".join(file.stem.split("_")[0].split("-")[:3])
        part, label = file.parts[-3:-1]
        lines.append(f"{number:04},{label},{part}{patient}{label},{part}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(lines))
    quick = ("--epochs", "1", "--image-size", "32", "--batch-size", "8")
    result = run_cli("train", "--data", flat, "--labels", table, *quick)
    assert result.exit_code == 0, result.stderr
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    tested = len(list(xrays.glob("test/*/*")))
    assert run.data.params["dataset/test/images"] == str(tested)
    predicted = next(workplace.rglob("predictions_test.csv")).read_text()
    assert "patient-" in predicted
    data = ("--data", flat, "--labels", table)
    result = run_cli("evaluate", "--model-uri", "models:/resnet34/1", *data)
    assert result.exit_code == 0, result.stderr
    assert f"auc                {run.data.metrics['test/auc']:.4f}" in result.stdout
