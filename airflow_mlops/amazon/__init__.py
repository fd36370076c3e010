"""Trainings on AWS: operators of Airflow's amazon provider that submit a job once. They import boto3."""
