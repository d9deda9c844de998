export type * from './client/types.ts'
export { createUpload, uploadFile } from './client/upload.ts'
export { UploadError } from './client/upload-error.ts'
export { createUploadGroup } from './client/upload-group.ts'
