export { S3StorageAdapter, type S3StorageOptions } from './storage/s3-storage.ts'
